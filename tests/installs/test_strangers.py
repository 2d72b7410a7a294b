"""People whom nobody knows: what they begin lies with their browsers, and what they bring back counts once."""

import asyncio
import string
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from broker.config.sandbox import KIT_APP_ID, KIT_CLIENT_ID, KIT_CLIENT_SECRET
from broker.encryption.keyring import Keyring, new_key, new_kid
from broker.errors import RateLimited
from broker.http.browser import KEPT_AT_ONCE, KEPT_BYTES, KeptRequests
from broker.http.peers import UnknownUserLimits
from broker.model import Secret
from tests.fakes.clock import FakeClock
from tests.hostile.test_install_rows import code_of, codes_sent, query_of
from tests.house import House, open_house
from tests.installs.test_flow import KIT_RETURN, Browser, Step

LONG = f"https://app.kit.com/apps/{'a1b2-' * 300}"

ASKED = (
    "/install/kit",
    f"/install/kit?redirect={KIT_RETURN}",
    f"/install/kit?redirect={LONG}",
    "/plugin/authorize?response_type=code&client_id=kit-client&state=s",
    f"/plugin/authorize?response_type=code&client_id=kit-client&state={'x9' * 1500}",
    "/plugin/authorize?consent=unknown",
    "/callback/kit?code=x&state=unknown",
    "/callback/kit?error=access_denied",
    "/login/complete?login_challenge=x&login_response=a.b.c",
)


@pytest.fixture(name="anyone")
async def _anyone(tmp_path: Path) -> AsyncIterator[House]:
    """A broker that lets anybody install from Kit, which the sandbox plays; nobody signs in."""
    async with open_house(tmp_path / "anyone") as house:
        text = (house.folder / "config.toml").read_text().replace("enabled = true", "enabled = false")
        base = house.sandbox.base_url
        (house.folder / "config.toml").write_text(
            f"""{text}
[providers.kit]
client_id = "{KIT_CLIENT_ID}"
client_secret = "{KIT_CLIENT_SECRET}"
app_id = {KIT_APP_ID}
open_install = true
authorize_url = "{base}/kit/oauth/authorize"
token_url = "{base}/kit/oauth/token"
api_url = "{base}/kit"
[plugin.clients.kit]
client_id = "kit-client"
client_secret = "s3cret"
redirect_uris = ["https://app.kit.com/apps"]
"""
        )
        await house.restart()
        yield house


@pytest.fixture(name="browser")
async def _browser() -> AsyncIterator[Browser]:
    browser = Browser()
    yield browser
    await browser.close()


async def rows(house: House) -> dict[str, int]:
    """How many rows each table has that a browser can reach."""
    counts = {}
    for table in ("logins", "installs", "claims", "plugin_consents", "plugin_codes", "events", "tickets"):
        [(counts[table],)] = await house.broker.context.stores.database.read(f"SELECT COUNT(*) FROM {table}")
    return counts


@pytest.mark.parametrize("signs_in", [True, False])
async def test_asking_writes_nothing(house: House, anyone: House, signs_in: bool) -> None:
    """With and without an app that signs people in; over and over, with and without cookies."""
    asked = house if signs_in else anyone
    before = await rows(asked)

    for path in ASKED:
        browser = Browser()
        for _ in range(3):
            assert (await browser.open(asked.public + path)).status < 500
        await browser.close()

    assert before == await rows(asked)


async def test_install_of_a_stranger_connects(anyone: House, browser: Browser) -> None:
    """Over a restart too; a reload ends at the same place, and only one code was sent."""
    consent = await query_of(browser, f"{anyone.public}/install/kit?redirect={KIT_RETURN}")
    code = await code_of(browser, consent, "4711")
    await anyone.restart()
    url = f"{anyone.public}/callback/kit?code={code}&state={consent['state']}"

    first, again = await browser.open(url), await browser.open(url)

    assert [(303, KIT_RETURN)] * 2 == [(first.status, first.location), (again.status, again.location)]
    assert ("4711", 1) == ((await anyone.account("kit-4711")).external_id, await codes_sent(anyone))


@pytest.mark.parametrize("code", ["bad", "x" * 4000, "%00"])
async def test_state_of_a_stranger_is_good_once(anyone: House, browser: Browser, code: str) -> None:
    """Twenty at once and ten later cause one exchange and one row; all are told the same."""
    consent = await query_of(browser, f"{anyone.public}/install/kit")
    url = f"{anyone.public}/callback/kit?code={code}&state={consent['state']}"

    at_once = await asyncio.gather(*[browser.open(url) for _ in range(20)])
    later = [await browser.open(url) for _ in range(10)]

    assert ({502}, 1) == ({step.status for step in (*at_once, *later)}, await codes_sent(anyone))
    assert 1 == (await rows(anyone))["installs"]


async def test_no_of_a_stranger_is_only_told(anyone: House, browser: Browser) -> None:
    """However often."""
    consent = await query_of(browser, f"{anyone.public}/install/kit")
    url = f"{anyone.public}/callback/kit?error=access_denied&state={consent['state']}"
    before = await rows(anyone)

    steps: list[Step] = [await browser.open(url) for _ in range(3)]

    assert [True] * 3 == ["You declined access" in step.text for step in steps]
    assert before == await rows(anyone)


@pytest.mark.parametrize("how", ["other browser", "too late", "other provider"])
async def test_request_is_the_browsers_own(anyone: House, browser: Browser, how: str) -> None:
    """A state alone is worth nothing."""
    consent = await query_of(browser, f"{anyone.public}/install/kit")
    provider = "other" if how == "other provider" else "kit"
    other = Browser()
    await other.open(f"{anyone.public}/install/kit")
    if how == "too late":
        anyone.clock.advance(601)

    asked = other if how == "other browser" else browser
    step = await asked.open(f"{anyone.public}/callback/{provider}?code=x&state={consent['state']}")
    await other.close()

    assert (404, 0) == (step.status, await codes_sent(anyone))


async def test_one_address_cannot_go_on_for_ever(anyone: House) -> None:
    """A hundred exchanges in ten minutes; then it is told to wait, nothing is sent, and links still work."""
    strangers = anyone.broker.installs.browsers
    for _ in range(100):
        strangers.unknown_users.admit("127.0.0.1")
    browser = Browser()
    consent = await query_of(browser, f"{anyone.public}/install/kit")
    url = f"{anyone.public}/callback/kit?code=x&state={consent['state']}"

    refused, sent = await browser.open(url), await codes_sent(anyone)
    declined = await browser.open(url.replace("code=x", "error=access_denied"))
    anyone.clock.advance(600)
    consent = await query_of(browser, f"{anyone.public}/install/kit")
    later = await browser.open(f"{anyone.public}/callback/kit?code=x&state={consent['state']}")
    await browser.close()

    assert (429, 429, 0, 502) == (refused.status, declined.status, sent, later.status)
    assert "Too many people" in refused.text


def test_limits_hold_by_address_and_in_all() -> None:
    """They end by themselves."""
    clock = FakeClock()
    strangers = UnknownUserLimits(clock, most=2, in_all=5, within=60.0)
    for site in ("a", "a", "b", "b", "c"):
        strangers.admit(site)

    for site in ("a", "d"):
        with pytest.raises(RateLimited):
            strangers.admit(site)
    clock.advance(60)
    for site in ("a", "d", "e"):
        strangers.admit(site)


class Ring:
    """A process's keys; it learns of another's when it catches up."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        self._stored = keys
        self.keyring = Keyring(active=next(iter(keys)), keys=keys, index_key=b"i" * 32)

    async def catch_up(self) -> None:
        self.keyring.take(self._stored, active=list(self._stored)[-1])


def cookies_of(response: web.StreamResponse) -> dict[str, str]:
    return {name: morsel.value for name, morsel in response.cookies.items() if morsel.value}


async def test_brokers_on_one_store_read_each_others_requests() -> None:
    """Also what was encrypted with a key that is new, or old by now; nothing of another's ring."""
    keys, clock, handle = {new_kid(): new_key()}, FakeClock(), Secret("h" * 43)
    here, there = Ring(keys), Ring(dict(keys))
    there._stored = keys
    until = clock.now() + 600

    def kept_by(ring: Ring) -> KeptRequests:
        return KeptRequests(keyring=ring.keyring, catch_up=ring.catch_up, clock=clock, https=True)

    old = kept_by(here).keep("p", handle, ["old"], until=until)
    keys[new_kid()] = new_key()
    await here.catch_up()
    new = kept_by(here).keep("p", handle, ["new"], until=until)
    assert old is not None
    assert new is not None

    found = [await kept_by(there).find("p", handle, {one.name: one.value}) for one in (old, new)]
    foreign = kept_by(Ring({new_kid(): new_key()}))

    assert [[until, "old"], [until, "new"]] == found
    assert await foreign.find("p", handle, {new.name: new.value}) is None


@pytest.mark.parametrize(
    ("change", "purpose", "handle"),
    [
        (lambda value: value, "other", "h" * 43),
        (lambda value: value, "p", "g" * 43),
        (lambda value: value[:-1] + ("A" if value[-1] != "A" else "B"), "p", "h" * 43),
        (lambda value: "A" * len(value), "p", "h" * 43),
        (lambda _: "é", "p", "h" * 43),
        (lambda _: "x" * 5000, "p", "h" * 43),
    ],
)
async def test_forged_request_is_none(change: object, purpose: str, handle: str) -> None:
    """It belongs to one purpose and one secret, and no bit of it may differ."""
    assert callable(change)
    ring = Ring({new_kid(): new_key()})
    kept = KeptRequests(keyring=ring.keyring, catch_up=ring.catch_up, clock=FakeClock(), https=False)
    one = kept.keep("p", Secret("h" * 43), ["x"], until=FakeClock().now() + 600)
    assert one is not None

    assert await kept.find(purpose, Secret(handle), {one.name: change(one.value)}) is None


@pytest.mark.parametrize("length", range(3))
async def test_last_letter_of_a_kept_request_is_no_other(length: int) -> None:
    """Not even one that differs only in bits that base64 ignores at the end."""
    ring = Ring({new_kid(): new_key()})
    kept = KeptRequests(keyring=ring.keyring, catch_up=ring.catch_up, clock=FakeClock(), https=False)
    one = kept.keep("p", Secret("h" * 43), ["x" * length], until=FakeClock().now() + 600)
    assert one is not None
    letters = set(string.ascii_letters + string.digits + "-_") - {one.value[-1]}
    found = [
        await kept.find("p", Secret("h" * 43), {one.name: one.value[:-1] + letter}) for letter in letters
    ]

    assert [None] * 63 == found


def test_browser_keeps_four_small_cookies() -> None:
    """The oldest goes; what does not fit is not kept at all."""
    clock = FakeClock()
    ring = Ring({new_kid(): new_key()})
    kept = KeptRequests(keyring=ring.keyring, catch_up=ring.catch_up, clock=clock, https=True)
    cookies: dict[str, str] = {}
    for number in range(10):
        one = kept.keep("p", Secret(f"{number:043}"), [f"{number}" * 300], until=clock.now() + 600 + number)
        assert one is not None
        assert len(one.name) + len(one.value) <= KEPT_BYTES
        response = web.Response()
        header = "; ".join(f"{name}={value}" for name, value in cookies.items())
        kept.write(make_mocked_request("GET", "/", headers={"Cookie": header}), response, one)
        gone = SimpleCookie(response.cookies.output(header=""))
        cookies = {name: value for name, value in cookies.items() if name not in gone}
        cookies |= cookies_of(response)
        written = response.cookies[one.name]
        assert (True, True, "Lax", "/") == (
            written["secure"],
            written["httponly"],
            written["samesite"],
            written["path"],
        )

    assert KEPT_AT_ONCE == len(cookies)
    assert [str(int(clock.now()) + 606 + n) for n in range(4)] == sorted(
        name.split("_")[-2] for name in cookies
    )
    assert (
        kept.keep(
            "p", Secret("h" * 43), ["".join(new_key().hex() for _ in range(40))], until=clock.now() + 600
        )
        is None
    )


async def test_long_way_back_is_left_out(anyone: House, browser: Browser) -> None:
    """Kit's own page instead, so that the rest can be kept."""
    consent = await query_of(browser, f"{anyone.public}/install/kit?redirect={LONG}")
    code = await code_of(browser, consent, "12")

    step = await browser.open(f"{anyone.public}/callback/kit?code={code}&state={consent['state']}")

    assert (303, f"{anyone.sandbox.base_url}/kit/apps/{KIT_APP_ID}") == (step.status, step.location)


async def test_long_state_of_a_plugin_is_refused_by_redirect(anyone: House, browser: Browser) -> None:
    """A client with a state of 400 characters is served; one that no cookie holds is told so."""
    asked = f"{anyone.public}/plugin/authorize?response_type=code&client_id=kit-client&state="

    page = await browser.open(asked + "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ-_" * 7)
    refused = await browser.open(asked + "".join(new_key().hex() for _ in range(40)))

    told = parse_qs(urlsplit(refused.location).query)
    assert (200, 303, ["invalid_request"]) == (page.status, refused.status, told["error"])
