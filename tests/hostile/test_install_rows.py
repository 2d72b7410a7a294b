"""Bad input to installs, row by row as the catalogue has it; rows with a test elsewhere are in `catalogue.py`."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from broker.http.browser import BrowserCookie
from broker.model import Secret
from tests.hostile.conftest import Target
from tests.house import House
from tests.installs.test_flow import KIT_RETURN, Browser, Step, link, state_of
from tests.until import moment

CANARY = "canary-18bb02"


@pytest.fixture(name="browser")
async def _browser() -> AsyncIterator[Browser]:
    browser = Browser()
    yield browser
    await browser.close()


async def query_of(browser: Browser, url: str) -> dict[str, str]:
    """Open an install link; what the provider is asked."""
    step = await browser.open(url)
    assert 302 == step.status, step.text
    return {"at": step.location} | {
        name: values[0] for name, values in parse_qs(urlsplit(step.location).query).items()
    }


async def code_of(browser: Browser, consent: dict[str, str], account: str = "29") -> str:
    """Say yes at the provider; the code, which the browser does not bring back."""
    form = {**consent, "decision": "allow", "account": account}
    step = await browser.open(form.pop("at"), "POST", data=form)
    return parse_qs(urlsplit(step.location).query)["code"][0]


async def codes_sent(house: House) -> int:
    return sum(request["kind"] == "code" for request in (await house.judge())["requests"])


@pytest.mark.parametrize("state", ["x", "A" * 43, "%00", "%ff%fe", "%F0%9F%A6%8A", "A" * 4096])
async def test_forged_state(house: House, browser: Browser, state: str) -> None:
    """Row “forged state”: a page, and nothing is sent to the provider."""
    await browser.open(await link(house))

    step = await browser.open(f"{house.public}/callback/kit?code=x&state={state}")

    assert (404, 0) == (step.status, await codes_sent(house))
    assert "<html" in step.text


@pytest.mark.parametrize(
    ("https", "name", "secure"), [(True, "__Host-broker_browser", True), (False, "broker_browser", False)]
)
def test_cookie_is_bound_to_host_and_browser(https: bool, name: str, secure: bool) -> None:
    """Row “foreign state”: `__Host-`, Secure, HttpOnly, SameSite=Lax, Path=/, and no Domain."""
    response = web.Response()

    BrowserCookie(https=https).write(response, Secret("b" * 43))

    cookie = response.cookies[name]
    assert (secure, True, "Lax", "/", "") == (
        bool(cookie["secure"]),
        cookie["httponly"],
        cookie["samesite"],
        cookie["path"],
        cookie["domain"],
    )


async def test_callback_after_a_restart(house: House, browser: Browser) -> None:
    """Row “callback in another replica or after a restart”: state and verifier were sealed into the store."""
    consent = await query_of(browser, await link(house))
    code = await code_of(browser, consent)
    await house.restart()

    step = await browser.open(f"{house.public}/callback/kit?code={code}&state={consent['state']}")

    assert (200, "acme") == (step.status, (await house.account()).name)


async def test_code_of_another_browser(house: House, browser: Browser) -> None:
    """Row “code injection”: a stolen code in one's own callback fails, for its verifier is another's."""
    victim = Browser()
    stolen = await code_of(victim, await query_of(victim, await link(house, "victim")))
    state = await state_of(browser, await link(house, "thief"))

    step = await browser.open(f"{house.public}/callback/kit?code={stolen}&state={state}")
    await victim.close()

    assert (502, None) == (step.status, await house.broker.context.stores.accounts.get("thief"))
    assert 1 == await codes_sent(house)


async def test_pkce_can_be_switched_off_for_a_provider(house: House, browser: Browser) -> None:
    """Row “PKCE rejected”: the switch is in the configuration of the provider, and its installs work."""
    house.extra += "\n[providers.kit]\npkce = false"
    house.write_config()
    await house.restart()

    consent = await query_of(browser, await link(house))
    code = await code_of(browser, consent)
    step = await browser.open(f"{house.public}/callback/kit?code={code}&state={consent['state']}")

    assert (200, False) == (step.status, "code_challenge" in consent)


@pytest.mark.parametrize(
    "error", ["access_denied", "<script>alert(1)</script>", CANARY, "%00%0d%0aX:y", "%C3%A9" * 300]
)
async def test_error_text_of_the_provider_is_shown_nowhere(
    target: Target, browser: Browser, error: str
) -> None:
    """Row “error=access_denied”: the state is spent, and neither page nor log repeats what could do harm."""
    house = target.house
    state = await state_of(browser, await link(house, "other"))

    step = await browser.open(
        f"{house.public}/callback/kit?error={error}&error_description={CANARY}<b>&state={state}"
    )

    denied = error == "access_denied"
    assert (200 if denied else 502, denied) == (step.status, "You declined access" in step.text)
    assert not [
        word for word in ("<script>", CANARY, "X:y", "é") if word in step.text + target.log.getvalue()
    ]


async def test_two_installs_of_one_account_at_once(house: House) -> None:
    """Row “concurrent installs of one account”: both exchange, each is an epoch of its own, the last one stays."""
    await house.connect()
    before = await house.account()
    browsers = [Browser(), Browser()]
    callbacks = []
    for browser in browsers:
        consent = await query_of(browser, await link(house))
        code = await code_of(browser, consent)
        callbacks.append(f"{house.public}/callback/kit?code={code}&state={consent['state']}")

    steps: list[Step] = await asyncio.gather(
        *(browser.open(url) for browser, url in zip(browsers, callbacks, strict=True))
    )
    for browser in browsers:
        await browser.close()

    after = await house.account()
    connected = sum(step.status == 200 for step in steps)
    assert connected >= 1
    assert (before.epoch + connected, before.generation + connected) == (after.epoch, after.generation)
    assert 200 == (await house.get("/token/acme")).status


@pytest.mark.proof  # the store waits five real seconds for a lock
async def test_store_that_fails_after_the_exchange(house: House, browser: Browser) -> None:
    """Row “commit fails after the exchange”: the page says so, and the grant is stored when there is room."""
    consent = await query_of(browser, await link(house))
    code = await code_of(browser, consent)
    house.sandbox.faults.set("kit", latency_after=1, times=1)
    callback = browser.open(f"{house.public}/callback/kit?code={code}&state={consent['state']}")
    returning = asyncio.create_task(callback)
    while not await codes_sent(house):
        await moment()

    with closing(sqlite3.connect(house.folder / "var" / "broker.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        house.clock.advance(1)
        step = await returning
    house.clock.advance(10)
    await house.broker.installs.late.settled()
    house.clock.advance(10)
    await house.broker.installs.service.identify_held()

    assert (202, True) == (step.status, "still storing the connection" in step.text)
    assert (200, 1) == ((await house.get("/token/acme")).status, await codes_sent(house))


async def test_guessed_install_link(house: House, browser: Browser) -> None:
    """Row “install link guessing”: 256 random bits; a ticket that was not made leads nowhere, at either provider."""
    url = await link(house)
    ticket = url.partition("ticket=")[2]

    wrong = [
        await browser.open(f"{house.public}/install/{provider}?ticket={guess}")
        for provider, guess in (
            ("kit", ticket[:-1]),
            ("kit", ticket.swapcase()),
            ("kustomer", ticket),
            ("kit", ""),
        )
    ]

    assert (43, {404}) == (len(ticket), {step.status for step in wrong})
    assert "" == "".join(step.location for step in wrong)


async def test_redirects_say_nothing_of_where_one_came_from(house: House) -> None:
    """Row “referrer leak of the code”: the callback leaves at once by 303, and every redirect has no referrer."""
    found: list[tuple[int, str | None, str | None]] = []
    browser = Browser()
    url, consent = f"{house.public}/install/kit?redirect={KIT_RETURN}", {}
    async with house.session.get(url, allow_redirects=False) as answer:
        found.append((answer.status, answer.headers["Referrer-Policy"], answer.headers["Cache-Control"]))
    ticket = await link(house, return_to="https://app.example.com/back")
    consent = await query_of(browser, ticket)
    step = await browser.open(f"{house.public}/callback/kit?error=access_denied&state={consent['state']}")
    await browser.close()

    assert [(302, "no-referrer", "no-store")] == found
    assert (303, "https://app.example.com/back?account=acme&status=refused") == (step.status, step.location)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_only_get_spends_a_state(house: House, browser: Browser, method: str) -> None:
    """Row “HEAD, POST, prefetch on the callback”: 405, and the state is as good as before."""
    state = await state_of(browser, await link(house))
    url = f"{house.public}/callback/kit?error=access_denied&state={state}"

    other = await browser.open(url, method)
    real = await browser.open(url)

    assert (405, 200) == (other.status, real.status)


async def test_link_made_by_a_login_cannot_be_bent(house: House, browser: Browser) -> None:
    """Row “open redirect”: what was stored is looked at again when it is used."""
    consent = await query_of_unannounced(house, browser)
    with closing(sqlite3.connect(house.folder / "var" / "broker.db", isolation_level=None)) as other:
        other.execute("UPDATE installs SET kit_return_url = 'https://evil.example/'")

    code = await code_of(browser, consent)
    step = await browser.open(f"{house.public}/callback/kit?code={code}&state={consent['state']}")

    assert (200, "") == (step.status, step.location)
    assert "evil.example" not in step.text


async def query_of_unannounced(house: House, browser: Browser) -> dict[str, str]:
    """An install that began at Kit, signed in at the sandbox's app."""
    login = (await browser.open(f"{house.public}/install/kit?redirect={KIT_RETURN}")).location
    query = {name: values[0] for name, values in parse_qs(urlsplit(login).query).items()}
    form = {**query, "login_as": "user-42", "decision": "allow"}
    done = (await browser.open(login, "POST", data=form)).location
    return await query_of(browser, done)
