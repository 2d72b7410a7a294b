"""Installs, step by step, as a browser takes them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import aiohttp
import pytest
from structlog.testing import capture_logs
from yarl import URL

from broker.installs.connect import derived_name
from broker.model import Account, Event, EventKind, Reason, Secret, Status
from broker.oauth import hashed
from broker.sandbox import visitor
from broker.store.account_queries import AccountQuery
from broker.store.database import execute
from tests.house import OPERATOR, House
from tests.until import moment

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

    assert (200, True) == (refused.status, "You declined access" in refused.text)
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

    assert first.text.count("You declined access") == again.text.count("You declined access") > 0


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

    assert "You declined access" in refused.text


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


ELSEWHERE = (
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
)


async def test_no_open_redirect(house: House) -> None:
    """Whatever stands in `redirect`, the browser ends at Kit, or at the sandbox that plays it: at the app's page."""
    for redirect in ELSEWHERE:
        visit = await visitor.install(f"{house.public}/install/kit?redirect={redirect}")

        assert f"{house.sandbox.base_url}/kit/apps/717" == visit.final_url, redirect


async def test_other_identity_needs_replace(house: House) -> None:
    """Another Kit account over an existing connection is refused unless the link says so."""
    before = await house.connect()

    refused = await visitor.install(await link(house), answers={"account": "31"})
    unchanged = await house.account()
    replaced = await visitor.install(await link(house, replace=True), answers={"account": "31"})

    assert (409, before) == (refused.status, unchanged)
    assert (200, "31") == (replaced.status, (await house.account()).external_id)


async def test_unknown_identity_is_not_called_another(house: House) -> None:
    """Whoever signed in to the right account is told to try again, and the same link then works."""
    before, url = await house.connect(), await link(house)
    house.sandbox.faults.set("kit", identity_status=401)
    refused = await visitor.install(url)
    house.sandbox.faults.set("kit", identity_status=None)
    unchanged, again = await house.account(), await visitor.install(url)

    assert (409, before) == (refused.status, unchanged)
    assert "did not say whose account" in refused.text
    assert "another account" not in refused.text
    assert (200, before.epoch + 1) == (again.status, (await house.account()).epoch)


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


@pytest.mark.parametrize(
    "damage", ["grant_meta = '['", "grant_meta = '[1]'", "provider = 'gone'", "created_at = 'never'"]
)
async def test_damaged_grant_holds_up_no_other(house: House, damage: str) -> None:
    """Those that came after it get their identity, and it comes up again later than they."""
    house.sandbox.faults.set("kit", identity_status=503)
    await visitor.install(await link(house, "first"), answers={"account": "1"})
    await execute(house.broker.context.stores.database, f"UPDATE installs SET {damage}")
    await visitor.install(await link(house, "second"), answers={"account": "2"})
    house.sandbox.faults.set("kit", identity_status=None)
    house.clock.advance(10)

    await house.broker.installs.service.identify_held()

    assert "2" == (await house.account("second")).external_id
    assert [] == await house.broker.context.stores.installs.held_grants(house.clock.now(), 9)


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
    ("fault", "cause"),
    [
        (
            {"status": 400, "body": '{"error":"invalid_scope","error_description":"no\\nread"}'},
            "answered 400 (invalid_scope): no read",
        ),
        ({"status": 404, "body": "<html>"}, "answered 404 without an OAuth error"),
        ({"status": 301, "headers": {"Location": "/x"}}, "redirected (301)"),
        ({"status": 429, "body": "slow"}, "answered 429"),
        ({"status": 401, "body": '{"error":"invalid_client"}'}, "answered 401 (invalid_client)"),
        ({"status": 200, "body": "<html>"}, "the answer is not JSON"),
        ({"status": 200, "body": '{"error":"bad_verification_code"}'}, "bad_verification_code, status 200"),
        ({"drop": "before"}, "no answer ("),
    ],
)
async def test_failed_install_says_why(house: House, fault: dict[str, object], cause: str) -> None:
    """In the event as in the log: what the provider answered, or what failed."""
    house.sandbox.faults.set("kit", **fault)

    with capture_logs() as lines:
        visit = await visitor.install(await link(house))
    events = await house.broker.context.stores.events.last_events(5)

    assert 502 == visit.status
    [event] = [one for one in events if one.kind is EventKind.INSTALL_FAILED]
    assert ("acme", "kit") == (event.account, event.provider)
    assert cause in (event.detail or "")
    [line] = [line for line in lines if line["event"] == "install.ended"]
    assert ("warning", event.detail) == (line["log_level"], line["detail"])


@pytest.mark.parametrize(
    "members", [{"access_token": "a b"}, {"token_type": "MAC"}, {"access_token": "\u00fc"}]
)
async def test_install_with_a_token_that_cannot_be_used(house: House, members: dict[str, object]) -> None:
    """The page does not say that all is well, nor when it is loaded again; the account and an event say why."""
    house.sandbox.faults.set("kit", members=members, times=1)
    visit = await visitor.install(await link(house))
    account = await house.account()
    events = await house.broker.context.stores.events.last_events(5)

    assert 502 == visit.status
    assert "cannot be used" in visit.text
    assert (Status.REFRESH_FAILING, Reason.TOKEN_UNUSABLE) == (account.status, account.reason)
    [event] = [one for one in events if one.kind is EventKind.REFRESH_FAILING]
    assert event.detail


@pytest.mark.parametrize("status", [302, 204, 404])
async def test_identity_endpoint_that_fails_for_good_is_told(house: House, status: int) -> None:
    """It is not asked again, and whoever looks into the log finds what it answered."""
    house.sandbox.faults.set("kit", identity_status=status)

    with capture_logs() as lines:
        visit = await visitor.install(await link(house))

    assert 200 == visit.status
    [line] = [line for line in lines if line["event"] == "identity.unknown"]
    assert f"answered {status}" in line["why"]
    [event] = await house.broker.context.stores.events.last_events(1)
    assert f"answered {status}" in (event.detail or "")


CUT = "7" * 200
STORED_BY_0_1_0 = (
    "UPDATE accounts SET external_id = substr(external_id, 1, 200), identity_double = 'cut ' || name"
)


async def stored_by_an_earlier_version(
    house: House, whole: str, *, name: str = "acme", answers: bool = True
) -> Account:
    """Connect an account and leave its identity as 0.1.0 and the migration do; its own token `answers`, or not."""
    before = await house.connect("kit", name, account=whole)
    await house.broker.context.stores.database.write(lambda one: one.execute(STORED_BY_0_1_0))
    if not answers:
        body = {"provider": "kit", "external_id": whole}
        async with house.session.post(f"{house.sandbox.base_url}/_sandbox/revoke", json=body) as answer:
            assert 200 == answer.status
    return before


@pytest.mark.parametrize("whole", [CUT, CUT + "7" * 50])
async def test_identity_that_was_cut_is_completed_by_its_own_token(house: House, whole: str) -> None:
    """An earlier version stored 200 characters: the account's own token tells the rest, before anything is compared."""
    before = await stored_by_an_earlier_version(house, whole)

    await visitor.install(await link(house, None), answers={"account": whole})
    again = await house.account()
    await visitor.install(await link(house, None), answers={"account": CUT + "8"})
    names = {row["account"] for row in (await house.get("/accounts")).json["accounts"]}

    assert (whole, before.epoch + 1) == (again.external_id, again.epoch)
    assert 2 == len(names)


@pytest.mark.parametrize("whole", [CUT, CUT + "7" * 50])
async def test_identity_that_was_cut_is_matched_by_no_prefix(house: House, whole: str) -> None:
    """Where the account's own token tells nothing, a new account is made, and the event says what is not known."""
    before = await stored_by_an_earlier_version(house, whole, answers=False)

    await visitor.install(await link(house, None), answers={"account": whole})
    [*_, event] = await house.broker.context.stores.events.last_events(2)
    await visitor.install(await link(house, None), answers={"account": whole})
    [first, second] = await accounts(house)

    assert ("acme", before.ref) == (first.name, first.ref)
    assert (event.account, 2, whole) == (second.name, second.epoch, second.external_id)
    assert "stored for acme was cut" in (event.detail or "")


async def postponed(house: House, whole: str = "29", *, identity_status: int | None = None) -> list[Event]:
    """Connect `late` while the identity endpoint is down, have it asked again, and return the events of that."""
    events = house.broker.context.stores.events
    house.sandbox.faults.set("kit", identity_status=503)
    visit = await visitor.install(await link(house, "late"), answers={"account": whole})
    assert 202 == visit.status
    before = await events.last_events(100)
    house.sandbox.faults.set("kit", identity_status=identity_status)
    house.clock.advance(10)
    await house.broker.installs.service.identify_held()
    return [one for one in await events.last_events(100) if one not in before]


async def test_late_identity_of_another_account_is_an_event(house: House) -> None:
    """The account is frozen as a duplicate, and whoever follows the events learns of whom."""
    await house.connect("kit", "acme", account="29")

    [event] = await postponed(house)

    assert (EventKind.FROZEN, "late", "kit") == (event.kind, event.account, event.provider)
    assert (Reason.DUPLICATE_IDENTITY, None) == (event.reason, event.actor)
    assert "the identity, known only now, is that of the account acme" == event.detail
    assert Reason.DUPLICATE_IDENTITY is (await house.account("late")).frozen


async def test_late_identity_that_may_be_a_cut_one_is_an_event(house: House) -> None:
    """As where it comes in time: both go on, and it is told that nobody knows."""
    await stored_by_an_earlier_version(house, CUT, answers=False)

    [event] = await postponed(house, CUT)

    assert (EventKind.CONNECTED, "late") == (event.kind, event.account)
    assert "the identity stored for acme was cut, so it may be the same" == event.detail
    assert (CUT, None) == ((late := await house.account("late")).external_id, late.frozen)


async def test_identity_that_never_came_is_an_event(house: House) -> None:
    """The endpoint fails for good after it was down."""
    [event] = await postponed(house, identity_status=404)

    assert (EventKind.CONNECTED, "late") == (event.kind, event.account)
    assert "connected without an identity: " in (event.detail or "")
    assert "answered 404" in (event.detail or "")


async def test_late_identity_in_time_is_no_event(house: House) -> None:
    """The account was told as connected already."""
    assert [] == await postponed(house)


async def test_late_identity_that_the_named_account_has_not_is_an_event(house: House) -> None:
    """The page said "Almost done", so nobody else would learn that the install connected nothing."""
    await house.connect("kit", "late", account="28")
    before = await house.account("late")

    [event] = await postponed(house)

    assert (EventKind.INSTALL_FAILED, "late", "kit") == (event.kind, event.account, event.provider)
    assert "the identity, known only now, is not that of the account late" == event.detail
    assert before == await house.account("late")


async def test_late_identity_is_not_that_of_a_newer_grant(house: House) -> None:
    """The account was connected again meanwhile, in time."""
    house.sandbox.faults.set("kit", identity_status=503)
    await visitor.install(await link(house, "late"), answers={"account": "29"})
    house.sandbox.faults.set("kit", identity_status=None)
    again = await house.connect("kit", "late", account="28")
    house.clock.advance(10)
    await house.broker.installs.service.identify_held()

    assert ("28", again.ref) == ((late := await house.account("late")).external_id, late.ref)


async def test_name_of_an_identity_that_was_cut_is_not_taken(house: House) -> None:
    """Not by a link that names the account, unless that says `replace`; one without a name makes another."""
    name = derived_name("kit", CUT)
    before = await stored_by_an_earlier_version(house, CUT, name=name, answers=False)

    named = await visitor.install(await link(house, name), answers={"account": CUT})
    unnamed = await visitor.install(await link(house, None), answers={"account": CUT})
    both = await accounts(house)
    await house.broker.context.stores.accounts.remove(
        next(one.name for one in both if one.name != name), 0.0, []
    )
    replaced = await visitor.install(await link(house, name, replace=True), answers={"account": CUT})
    again = await visitor.install(await link(house, None), answers={"account": CUT})

    assert (409, 200, 2, 200, 200) == (named.status, unnamed.status, len(both), replaced.status, again.status)
    assert [(name, before.epoch + 2)] == [(one.name, one.epoch) for one in await accounts(house)]


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


TRACKED = [
    "{link}&ck_subscriber_id=12345",
    "{link}&utm_source=mail&utm_medium=email&fbclid=x",
    "{link}&x=1&x=2&x=",
    "{link}?utm_source=mail",
    "{link}.",
    "{link}%20",
    "{link};x=1",
    "{link}%3E",
    "{link}&redirect=https://app.kit.com/apps/717&account=other&replace=true",
    "{front}?mc_eid=1&{query}",
]


@pytest.mark.parametrize("written", TRACKED)
async def test_link_means_the_same_whatever_is_appended(house: House, written: str) -> None:
    """Mail programs and trackers add parameters; the ticket wins."""
    url = await link(house)
    front, _, query = url.partition("?")

    visit = await visitor.install(written.format(link=url, front=front, query=query))

    assert (200, ["acme"]) == (visit.status, [one.name for one in await accounts(house)])


async def accounts(house: House) -> list[Account]:
    return await house.broker.context.stores.accounts.find(AccountQuery())


async def returned(house: House, browser: Browser, account: str = "acme", **more: object) -> str:
    """The address of a callback with a code that is good."""
    return await allowed(browser, await link(house, account, **more))


async def allowed(browser: Browser, install_url: str) -> str:
    """Open a link and say yes at the provider; where the browser is sent then."""
    step = await browser.open(install_url)
    form = {name: values[0] for name, values in parse_qs(urlsplit(step.location).query).items()}
    answers = {"decision": "allow", "account": form["tenant_name"].replace("acme", "29")}
    return (await browser.open(step.location, "POST", data={**form, **answers})).location


@pytest.mark.parametrize(
    "more",
    [
        "&error=&error_description=&error_uri=",
        "&scope=a+b&session_state=abc.1&authuser=0&prompt=none",
        "&hd=x&hd=y&hd=",
        "&error_description=a&error_description=b",
        "&state=&iss=",
        "&iss={provider}/tenant",
        "&" + "&".join(f"p{number}={number}" for number in range(200)),
        "&pad=" + "x" * 6000,
    ],
)
async def test_callback_judges_nothing_else(house: House, browser: Browser, more: str) -> None:
    """RFC 6749 3.1 and 4.1.2: what is empty was left out, and what is not known is ignored."""
    url = await returned(house, browser)

    step = await browser.open(url + more.format(provider=house.sandbox.base_url))

    assert (200, True) == (step.status, ">Connected<" in step.text), step.text


@pytest.mark.parametrize(
    "iss",
    ["https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "nonsense", "http://[", "//x"],
)
async def test_foreign_issuer_is_refused(house: House, browser: Browser, iss: str) -> None:
    """RFC 9207: nothing is sent, and the right answer still counts."""
    url = await returned(house, browser)

    refused = await browser.open(f"{url}&iss={quote(iss, safe='')}")
    sent = [request for request in (await house.judge())["requests"] if request["kind"] == "code"]
    right = await browser.open(url)

    assert (400, [], 200) == (refused.status, sent, right.status)
    assert "not from the provider" in refused.text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("error=access_denied", "access_denied"),
        (
            "error=invalid_request&error_description=redirect_uri+differs",
            "invalid_request: redirect_uri differs",
        ),
        ("error=app%20not%20approved&state=", "app not approved"),
        (
            "error=x&error_description=%3Cb%3Ehttps://evil.example/%3C/b%3E%00%E2%80%AE",
            "x: b https: evil.example b",
        ),
        ("error=%F0%9F%A6%8A", None),
        ("error=" + "e" * 500, "e" * 64),
    ],
)
async def test_error_without_state_is_told(
    house: House, browser: Browser, query: str, said: str | None
) -> None:
    """In the provider's words, without what makes a link or mark-up; anybody can write such an address."""
    step = await browser.open(f"{house.public}/callback/kit?{query}")

    assert (400, True) == (step.status, "The provider reports an error" in step.text)
    assert (said is None) == ("It said" not in step.text)
    assert said is None or f"“{said}”" in step.text


@pytest.mark.parametrize("error", ["user_denied", "user_cancelled_login", "access_denied"])
async def test_decision_of_a_person_is_told_as_one(house: House, browser: Browser, error: str) -> None:
    """Also in a provider's own words."""
    state = await state_of(browser, await link(house))

    page = await browser.open(f"{house.public}/callback/kit?error={error}&state={state}")

    assert (200, True) == (page.status, "declined access" in page.text)


@pytest.mark.parametrize(
    "error",
    [
        "server_error",
        "temporarily_unavailable",
        "invalid_scope",
        "consent_required",
        "login_required",
        "admin_policy_enforced",
    ],
)
async def test_error_of_the_provider_is_no_refusal(house: House, browser: Browser, error: str) -> None:
    """The person did not say no; the page and `return_to` say what it was."""
    states = [
        await state_of(browser, await link(house)),
        await state_of(browser, await link(house, "other", return_to="https://app.example.com/")),
    ]

    page, away = [
        await browser.open(
            f"{house.public}/callback/kit?error={error}&error_description=ask+your+admin&state={state}"
        )
        for state in states
    ]

    assert (502, True, False) == (
        page.status,
        f"{error}: ask your admin" in page.text,
        "declined access" in page.text,
    )
    assert "https://app.example.com/?account=other&status=failed" == away.location


@pytest.mark.parametrize("more", [{}, {"code": "a"}])
async def test_code_is_sent_as_the_provider_meant_it(
    house: House, browser: Browser, more: dict[str, str]
) -> None:
    """A `+` that it did not encode is no blank; two codes are none."""
    state = await state_of(browser, await link(house))

    step = await browser.open(f"{house.public}/callback/kit?code=a+b/c=&state={state}&{urlencode(more)}")
    sent = [request for request in (await house.judge())["requests"] if request["kind"] == "code"]

    assert [hashed(Secret("a+b/c="))][: not more] == [one["token_sha256"] for one in sent]
    assert (400 if more else 502) == step.status


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=UTF-8"]
)
async def test_posted_answer_comes_again_by_get(house: House, browser: Browser, content_type: str) -> None:
    """`response_mode=form_post`: the post brings none of our cookies, the GET that follows does."""
    url = await returned(house, browser)
    form = (urlsplit(url).query + "&session_state=x&state=&error=&name=Zoë").encode("latin-1")

    async with house.session.post(
        f"{house.public}/callback/kit",
        data=form,
        headers={"Content-Type": content_type},
        allow_redirects=False,
    ) as answer:
        status, location = answer.status, answer.headers["Location"]
    step = await browser.open(location)

    assert (303, url) == (status, location)
    assert 200 == step.status


async def test_later_loads_wait_for_the_first(house: House, browser: Browser) -> None:
    """While the provider takes its time: all end at the same place, and one code was sent."""
    url = await returned(house, browser, return_to="https://app.example.com/")
    house.sandbox.faults.set("kit", latency_after=20, times=1)

    loads = [asyncio.create_task(browser.open(url)) for _ in range(5)]
    await until_sent(house)
    loads += [asyncio.create_task(browser.open(url)) for _ in range(3)]
    await asyncio.sleep(0)
    house.clock.advance(20)
    steps = await asyncio.gather(*loads)

    assert {(303, "https://app.example.com/?account=acme&status=connected")} == {
        (step.status, step.location) for step in steps
    }
    assert 1 == len(await codes(house))


async def codes(house: House) -> list[object]:
    return [request for request in (await house.judge())["requests"] if request["kind"] == "code"]


async def until_sent(house: House) -> None:
    while not await codes(house):
        await moment()


async def test_stop_waits_for_an_exchange(house: House, browser: Browser) -> None:
    """What has begun ends; what comes meanwhile is asked to come again, and its code is still good then."""
    service, other = house.broker.installs.service, Browser()
    first, second = await returned(house, browser), await returned(house, other, "31")
    house.sandbox.faults.set("kit", latency_after=50, times=1)
    under_way = asyncio.create_task(browser.open(first))
    await until_sent(house)

    house.broker.context.health.stopping = True
    draining = asyncio.create_task(service.exchanges.drain())
    turned_away = await other.open(second)
    was_waiting = not draining.done()
    house.clock.advance(50)
    await draining
    step = await under_way
    await house.restart()
    again, reloaded = await other.open(second), await browser.open(first)
    await other.close()

    assert (503, True, 0) == (turned_away.status, was_waiting, len(service.exchanges))
    assert (200, 200, 200) == (step.status, reloaded.status, again.status)
    assert ">Connected<" in reloaded.text


async def test_exchange_that_was_cut_is_told_as_unknown(house: House, browser: Browser) -> None:
    """After a kill: not that all is well, and the link can be opened again."""
    url = await link(house)
    state = await state_of(browser, url)
    await house.broker.context.stores.installs.take_install(hashed(Secret(state)), house.clock.now())

    step = await browser.open(f"{house.public}/callback/kit?code=x&state={state}")

    assert (409, True) == (step.status, "We do not know how this ended" in step.text)
    assert [] == await codes(house)
    assert 200 == (await visitor.install(url)).status


@pytest.mark.parametrize("how", ["used meanwhile", "replaced by a newer link"])
async def test_link_that_is_no_longer_good_sends_no_code(house: House, browser: Browser, how: str) -> None:
    """At some providers a new grant would end the one that was connected meanwhile."""
    url = await link(house)
    late = await allowed(browser, url)
    if how == "used meanwhile":
        await visitor.install(url)
    else:
        await link(house)
    before = await codes(house)

    step = await browser.open(late)

    assert (410, before) == (step.status, await codes(house))
    assert {"used meanwhile": "used already", "replaced by a newer link": "was replaced"}[how] in step.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "[::1]", "broker.lan", "192.0.2.7"])
async def test_browser_that_came_by_another_name_is_sent_to_the_public_one(
    house: House, browser: Browser, host: str
) -> None:
    """Once, with the ticket; its cookies would not come back otherwise."""
    url = await link(house)
    headers = {"Host": f"{host}:{house.public_port}"}

    step = await browser.open(url + "&utm_source=x", headers=headers)
    kit = await browser.open(f"{house.public}/install/kit?redirect={KIT_RETURN}", headers=headers)
    unknown = await browser.open(f"{house.public}/install/kit?ticket=made-up", headers=headers)
    rewritten = await browser.open(step.location, headers=headers)

    assert (302, f"{url.partition('?')[0]}?moved=1&{url.partition('?')[2]}") == (step.status, step.location)
    assert f"{house.public}/install/kit?moved=1&redirect={KIT_RETURN}" == kit.location
    assert (404, 302) == (unknown.status, rewritten.status)
    assert rewritten.location.startswith(house.sandbox.base_url)
