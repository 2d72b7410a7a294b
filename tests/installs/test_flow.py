"""Installs, step by step, as a browser takes them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from yarl import URL

from broker.model import Status
from broker.sandbox import visitor
from tests.house import OPERATOR, House

KIT_RETURN = "https://app.kit.com/apps/717?success=true"


@dataclass(slots=True)
class Step:
    """One answer on the way."""

    status: int
    location: str
    text: str


class Browser:
    """Cookies, and no redirect followed without being told to."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def open(self, url: str, method: str = "GET", **more: object) -> Step:
        async with self._session.request(
            method,
            URL(url, encoded=True),
            allow_redirects=False,
            **more,  # type: ignore[arg-type]  # headers, passed through
        ) as answer:
            return Step(answer.status, answer.headers.get("Location", ""), await answer.text())

    def forget_cookies(self) -> None:
        self._session.cookie_jar.clear()

    async def close(self) -> None:
        await self._session.close()


@pytest.fixture(name="browser")
async def _browser() -> AsyncIterator[Browser]:
    browser = Browser()
    yield browser
    await browser.close()


async def link(house: House, account: str | None = "acme", **more: object) -> str:
    """An install link as `POST /installs` makes it."""
    body = {"provider": "kit", "account": account, **more}
    answer = await house.post("/installs", {key: value for key, value in body.items() if value is not None})
    assert 201 == answer.status, answer.body
    return str(answer.json["install_url"])


async def state_of(browser: Browser, install_url: str) -> str:
    """Open the link; the state that went to the provider."""
    step = await browser.open(install_url)
    assert 302 == step.status, step.text
    return parse_qs(urlsplit(step.location).query)["state"][0]


async def test_link_leads_to_the_provider_with_pkce_and_state(house: House, browser: Browser) -> None:
    """The authorization request holds S256, a state of 43 characters and the exact redirect URI."""
    step = await browser.open(await link(house))

    query = {key: values[0] for key, values in parse_qs(urlsplit(step.location).query).items()}
    assert ("S256", "code", "sandbox-kit") == (
        query["code_challenge_method"],
        query["response_type"],
        query["client_id"],
    )
    assert (43, 43) == (len(query["state"]), len(query["code_challenge"]))
    assert f"{house.public}/callback/kit" == query["redirect_uri"]
    assert "acme" == query["tenant_name"]


async def test_opening_a_link_does_not_spend_it(house: House) -> None:
    """A link that was only looked at still connects; once it has connected it is spent."""
    url = await link(house)
    looking = Browser()
    await looking.open(url)
    await looking.close()

    first = await visitor.install(url)
    second = await visitor.install(url)

    assert (200, 410) == (first.status, second.status)
    assert "used already" in second.text


async def test_person_who_says_no_changes_nothing(house: House) -> None:
    """Refusal is told kindly, the old connection stays, and the link can be used again."""
    before = await house.connect()
    url = await link(house)

    refused = await visitor.install(url, decision="deny")

    assert (200, True) == (refused.status, "You said no" in refused.text)
    assert before == await house.account()
    assert 200 == (await visitor.install(url)).status


async def test_expired_link_and_state(house: House, browser: Browser) -> None:
    """Links live an hour, states ten minutes."""
    url = await link(house)
    state = await state_of(browser, url)
    house.clock.advance(601)

    late = await browser.open(f"{house.public}/callback/kit?code=x&state={state}")
    house.clock.advance(3600)
    expired = await browser.open(url)

    assert (410, 410) == (late.status, expired.status)
    assert "has expired" in late.text
    assert "has expired" in expired.text


async def test_state_is_good_once_also_in_a_race(house: House, browser: Browser) -> None:
    """Twenty callbacks with one state cause one exchange at the provider."""
    state = await state_of(browser, await link(house))

    await asyncio.gather(
        *[browser.open(f"{house.public}/callback/kit?code=bad&state={state}") for _ in range(20)]
    )

    codes = [request for request in (await house.judge())["requests"] if request["kind"] == "code"]
    assert 1 == len(codes)


async def test_second_visit_shows_the_result_again(house: House, browser: Browser) -> None:
    """A reload of the callback neither exchanges again nor frightens."""
    state = await state_of(browser, await link(house))
    callback = f"{house.public}/callback/kit?error=access_denied&state={state}"

    first, again = await browser.open(callback), await browser.open(callback)

    assert first.text.count("You said no") == again.text.count("You said no") > 0


@pytest.mark.parametrize("why", ["cookies", "browser"])
async def test_callback_in_another_browser_is_refused(house: House, browser: Browser, why: str) -> None:
    """A state belongs to the browser that began; without its cookie nothing is sent to the provider."""
    state = await state_of(browser, await link(house))
    browser.forget_cookies()
    if why == "browser":
        await browser.open(await link(house, "other"))

    step = await browser.open(f"{house.public}/callback/kit?code=x&state={state}")

    assert 400 == step.status
    assert {"cookies": "Cookies are off", "browser": "another browser"}[why] in step.text
    assert [] == (await house.judge())["requests"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "code=x",
        "state=unknown",
        "code=x&state={state}&state={state}",
        "code=x&error=access_denied&state={state}",
        "code=&state={state}",
        "state={state}",
    ],
)
async def test_malformed_callback_is_told(house: House, browser: Browser, query: str) -> None:
    """Missing and repeated parameters, and both a code and an error, lead nowhere and spend nothing."""
    state = await state_of(browser, await link(house))

    step = await browser.open(f"{house.public}/callback/kit?{query.format(state=state)}")

    assert 400 <= step.status < 500
    assert [] == (await house.judge())["requests"]


async def test_callback_at_another_provider_is_refused(house: House, browser: Browser) -> None:
    """A state is bound to its provider (mix-up)."""
    state = await state_of(browser, await link(house))

    step = await browser.open(f"{house.public}/callback/kustomer?code=x&state={state}")

    assert 404 == step.status


async def test_prefetch_and_head_take_nothing(house: House, browser: Browser) -> None:
    """A browser that looks ahead does not consume the state."""
    state = await state_of(browser, await link(house))
    url = f"{house.public}/callback/kit?error=access_denied&state={state}"

    ahead = await browser.open(url, headers={"Sec-Purpose": "prefetch"})
    head = await browser.open(url, "HEAD")
    real = await browser.open(url)

    assert (204, 405, 200) == (ahead.status, head.status, real.status)


async def test_state_survives_a_restart(house: House) -> None:
    """A broker that was restarted between redirect and callback still connects."""
    browser = Browser()
    step = await browser.open(await link(house))
    consent = await browser.open(step.location)
    assert 200 == consent.status
    await house.restart()
    refused = await browser.open(
        f"{house.public}/callback/kit?error=access_denied&state={parse_qs(urlsplit(step.location).query)['state'][0]}"
    )
    await browser.close()

    assert "You said no" in refused.text


async def test_return_to_hears_how_it_went(house: House, browser: Browser) -> None:
    """The service that made the link gets the person back with the account and the outcome."""
    state = await state_of(browser, await link(house, return_to="https://app.example.com/back?x=1"))

    step = await browser.open(f"{house.public}/callback/kit?error=access_denied&state={state}")

    assert (303, "https://app.example.com/back?x=1&account=acme&status=refused") == (
        step.status,
        step.location,
    )


async def test_unannounced_install_signs_in_first(house: House) -> None:
    """Kit's creator signs in at the company's app; its `sub` becomes the account's subject; then back to Kit."""
    visit = await visitor.install(
        f"{house.public}/install/kit?redirect={KIT_RETURN}", login_as="user-42", answers={"account": "123"}
    )

    account = await house.account("kit-123")
    assert KIT_RETURN == visit.final_url
    assert ("user-42", "123", Status.ACTIVE) == (account.subject, account.external_id, account.status)


async def test_known_id_is_renewed_in_place(house: House) -> None:
    """The same Kit account comes again: same name, next epoch, a generation further, the subject kept."""
    await test_unannounced_install_signs_in_first(house)
    before = await house.account("kit-123")

    await visitor.install(
        f"{house.public}/install/kit?redirect={KIT_RETURN}", login_as="user-42", answers={"account": "123"}
    )

    after = await house.account("kit-123")
    assert (before.epoch + 1, before.generation + 1) == (after.epoch, after.generation)
    assert before.subject == after.subject


async def test_other_person_cannot_take_a_connected_account(house: House) -> None:
    """A subject that differs from the stored one is refused, and the old grant stays."""
    await test_unannounced_install_signs_in_first(house)
    before = await house.account("kit-123")

    visit = await visitor.install(
        f"{house.public}/install/kit?redirect={KIT_RETURN}", login_as="user-43", answers={"account": "123"}
    )

    assert (409, True) == (visit.status, "belongs to somebody else" in visit.text)
    assert before == await house.account("kit-123")


async def test_person_who_does_not_sign_in_connects_nothing(house: House, browser: Browser) -> None:
    """The company's app sends back without an answer: a page, and nothing is sent to Kit."""
    step = await browser.open(f"{house.public}/install/kit?redirect={KIT_RETURN}")
    challenge = parse_qs(urlsplit(step.location).query)["login_challenge"][0]

    back = await browser.open(
        f"{house.public}/login/complete?login_challenge={challenge}&login_error=access_denied"
    )

    assert (400, True) == (back.status, "not signed in" in back.text)


@pytest.mark.parametrize("response", ["x", "a.b.c", "", "a.b.c&login_response=a.b.c"])
async def test_forged_sign_in_is_refused(house: House, browser: Browser, response: str) -> None:
    """An answer that the app's key did not sign signs nobody in."""
    step = await browser.open(f"{house.public}/install/kit")
    challenge = parse_qs(urlsplit(step.location).query)["login_challenge"][0]

    back = await browser.open(
        f"{house.public}/login/complete?login_challenge={challenge}&login_response={response}"
    )

    assert 400 == back.status


@pytest.mark.parametrize(
    "redirect",
    [
        "https://evil.example/apps",
        "http://app.kit.com/apps",
        "https://app.kit.com.evil.example/apps",
        "https://app.kit.com@evil.example/apps",
        "https://app.kit.com:444/apps",
        "https://app.kit.com/other",
        "//evil.example",
        "https://app.kit.com\\@evil.example/apps",
        "javascript:alert(1)",
        "",
    ],
)
async def test_no_open_redirect(house: House, redirect: str) -> None:
    """Whatever stands in `redirect`, the browser ends at Kit: there, or at the app's page."""
    visit = await visitor.install(f"{house.public}/install/kit?redirect={redirect}")

    assert "https://app.kit.com/apps/717" == visit.final_url


async def test_other_identity_needs_replace(house: House) -> None:
    """Another Kit account over an existing connection is refused unless the link says so."""
    before = await house.connect()

    refused = await visitor.install(await link(house), answers={"account": "31"})
    unchanged = await house.account()
    replaced = await visitor.install(await link(house, replace=True), answers={"account": "31"})

    assert (409, before) == (refused.status, unchanged)
    assert (200, "31") == (replaced.status, (await house.account()).external_id)


async def test_connected_under_another_name_is_a_conflict(house: House) -> None:
    """One identity has one name: a link that names another is refused."""
    await house.connect()

    visit = await visitor.install(await link(house, "acme-2"))

    assert 409 == visit.status


async def test_kustomer_is_named_after_its_org(house: House) -> None:
    """Without a name the account takes the provider's id."""
    url, _ = await house.broker.installs.service.create(
        OPERATOR,
        provider="kustomer",
        account=None,
        org=None,
        return_to=None,
        replace_identity=False,
        request_id="test",
    )

    await visitor.install(url, answers={"org": "globex"})

    [row] = (await house.get("/accounts")).json["accounts"]
    assert f"kustomer-{row['external_id']}" == row["account"]


async def test_identity_is_asked_again_later(house: House) -> None:
    """An identity that cannot be had just now does not cost the grant: the free name takes it meanwhile."""
    house.sandbox.faults.set("kit", identity_status=503)

    visit = await visitor.install(await link(house))
    pending = await house.account()
    house.sandbox.faults.set("kit", identity_status=None)
    await house.restart()
    house.clock.advance(10)
    await house.broker.installs.service.identify_held()

    assert (202, "Almost done" in visit.text) == (visit.status, True)
    assert (None, "29") == (pending.external_id, (await house.account()).external_id)
    assert 200 == (await house.get("/token/acme")).status


async def test_taken_name_keeps_its_grant_until_the_identity_is_known(house: House) -> None:
    """While it is not known whose the new grant is, the old one goes on."""
    before = await house.connect()
    house.sandbox.faults.set("kit", identity_status=503)

    await visitor.install(await link(house))
    meanwhile = await house.account()
    house.sandbox.faults.set("kit", identity_status=None)
    house.clock.advance(10)
    await house.broker.installs.service.identify_held()

    assert before == meanwhile
    assert before.epoch + 1 == (await house.account()).epoch


async def test_answer_without_refresh_token_is_told_at_once(house: House) -> None:
    """Kustomer without offline_access: the page and the account say that it ends with the day."""
    url, _ = await house.broker.installs.service.create(
        OPERATOR,
        provider="kustomer",
        account="day",
        org=None,
        return_to=None,
        replace_identity=False,
        request_id="test",
    )
    house.sandbox.faults.set("kustomer", members={"refresh_token": None})

    visit = await visitor.install(url)
    shown = (await house.get("/accounts/day")).json
    house.clock.advance(86400)
    answer = await house.get("/token/day")

    assert "no refresh token" in visit.text
    assert "no_refresh_token" == shown["reason"]
    assert (409, "no_refresh_token") == (answer.status, answer.json["reason"])


async def test_exchange_that_fails_leaves_the_old_grant(house: House) -> None:
    """A code whose answer never comes is not tried again; the person may begin again."""
    before = await house.connect()
    house.sandbox.faults.set("kit", drop="after", times=1)

    failed = await visitor.install(await link(house))

    assert (502, before) == (failed.status, await house.account())
    assert 200 == (await visitor.install(await link(house))).status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"provider": "nobody"}, 400),
        ({"provider": "kit", "account": "BAD"}, 400),
        ({"provider": "kit", "return_to": "javascript:alert(1)"}, 400),
        ({"provider": "kit", "return_to": "https://u:p@example.com/"}, 400),
        ({"provider": "kit", "account": 5}, 400),
        ({"provider": "kit", "extra": "x"}, 400),
    ],
)
async def test_malformed_install_is_told(house: House, body: dict[str, object], status: int) -> None:
    """A request that cannot be meant is refused with the reason."""
    assert status == (await house.post("/installs", body)).status


async def test_unnamed_install_needs_a_glob_that_covers_it(house: House) -> None:
    """A caller who may not touch kit-… cannot have an account named so."""
    narrow = await house.caller("acme", permissions=("install",), name="narrow")
    wide = await house.caller("kit-*", permissions=("install",), name="wide")

    refused = await house.post("/installs", {"provider": "kit"}, key=narrow)
    allowed = await house.post("/installs", {"provider": "kit"}, key=wide)

    assert (403, 201) == (refused.status, allowed.status)
