"""What the pages say."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from broker.dashboard.service import account_item, event_item
from broker.http.bodies import account_json, event_json
from broker.installs.exchange import InstallResult
from broker.installs.pages import result_page
from broker.model import Account, Event, EventKind, Incident, InstallOutcome, Reason, Status, Trouble
from broker.sandbox.faults import Mode
from tests.alerts.conftest import rounds
from tests.alerts.receiver import open_receiver
from tests.commanding import commands_at
from tests.dashboard.conftest import Visitor
from tests.house import OPERATOR, House, open_house
from tests.store.rows import account, install

LATER = "of_a_later_version"
KINDS = [*EventKind, EventKind.stored(LATER)]
REASONS = [*Reason, Reason.stored(LATER)]
CAUSES = [*Reason, *Incident, Incident.stored(LATER)]
UNFORESEEN = ["/", "/dashboard/activity", "/dashboard/accounts/acme", "/dashboard/callers"]
UNFORESEEN += [f"/dashboard/accounts/dead-{len(Reason)}"]
PAGES = [*UNFORESEEN, "/dashboard/accounts", "/dashboard/providers", "/dashboard/keys"]
COMMANDS = [("events", "--limit", "1000"), ("events", "--json"), ("accounts", "list"), ("callers", "list")]
COMMANDS += [("accounts", "show", f"dead-{len(Reason)}"), ("accounts", "list", "--json")]


async def text(operator: Visitor, path: str) -> str:
    answer = await operator.get(path)
    assert 200 == answer.status, answer.body
    return answer.body.decode()


async def test_start_page_says_that_all_is_well(operator: Visitor) -> None:
    """Two connections, and what happened last."""
    page = await text(operator, "/")

    assert "All connections are healthy" in page
    assert "Expiry of access tokens" in page
    assert "/dashboard/accounts/north" in page


async def test_start_page_does_not_call_a_frozen_account_well(operator: Visitor) -> None:
    """One of two, and then both."""
    accounts = operator.house.broker.accounts
    await accounts.freeze(OPERATOR, "acme", request_id="test")
    operator.house.clock.advance(1.5)
    one = await text(operator, "/")
    await accounts.freeze(OPERATOR, "north", request_id="test")
    operator.house.clock.advance(1.5)
    both = await text(operator, "/")

    assert "<h1>1 connection is frozen, the others are healthy</h1>" in one
    assert "<h1>2 connections are frozen</h1>" in both


async def test_dead_account_comes_first_with_what_to_do(operator: Visitor) -> None:
    """In plain words; the command can be pasted."""
    house = operator.house
    house.sandbox.faults.set("kit", rotation=Mode.STRICT)
    revoked = {"provider": "kit", "external_id": (await house.account()).external_id}
    async with house.session.post(f"{house.sandbox.base_url}/_sandbox/revoke", json=revoked) as done:
        assert done.status == 200, await done.text()
    asking = asyncio.create_task(house.post("/token/acme/refresh"))
    while not asking.done():
        await house.clock.settle()
        house.clock.advance(3)
    await asking

    page = await text(operator, "/")

    assert "1 connection needs re-authorization" in page
    assert "The provider says that the grant was revoked or has expired." in page


async def test_account_page_tells_its_history_and_who_uses_it(operator: Visitor) -> None:
    """The latest first."""
    await operator.house.get("/token/acme")
    await operator.house.post("/token/acme/refresh")

    page = await text(operator, "/dashboard/accounts/acme")

    assert page.index("<strong>Renewed") < page.index("<strong>Connected")
    assert "<dt>service</dt>" in page


async def test_keys_page_tells_what_each_seals_and_what_to_do(operator: Visitor) -> None:
    """After `keys add` the older one has records, until `keys rewrap`; no key is ever shown."""
    desk = operator.house.broker.keys
    old = operator.house.broker.context.keyring.active
    await desk.new(OPERATOR, request_id="test")

    page = await text(operator, "/dashboard/keys")
    await desk.rewrap(OPERATOR, None, request_id="test")
    rewrapped = await text(operator, "/dashboard/keys")

    assert old in page
    assert "<code>broker keys rewrap</code>" in page.split(old)[1].split("</tr>")[0]
    assert f"<code>broker keys remove {old}</code>" in rewrapped


async def test_callers_page_tells_how_each_proves_itself_and_when_it_was_there(operator: Visitor) -> None:
    """A key by its id and last use; nothing of the key."""
    await operator.house.get("/token/acme")
    await operator.house.broker.callers.service.flush_uses()

    page = await text(operator, "/dashboard/callers")

    assert operator.house.key.split("_")[1] in page
    assert operator.house.key not in page
    assert "now</time>" in page


async def test_unknown_account_is_no_page(operator: Visitor) -> None:
    """Also a name that none can have."""
    answers = [await operator.get(f"/dashboard/accounts/{name}") for name in ("nobody", "%3Cscript%3E")]

    assert [404, 404] == [answer.status for answer in answers]
    assert b"<script>" not in answers[1].body


async def test_search_finds_by_name_and_id(operator: Visitor) -> None:
    """In any case; what stands for anything elsewhere stands for itself here."""
    house = operator.house
    await house.broker.accounts.change(OPERATOR, "acme", {"label": "100% Wool_Ltd"}, request_id="test")

    found = {
        search: "accounts/acme" in await text(operator, f"/dashboard/accounts?search={search}")
        for search in ("ACM", "north", "100%25+wool", "wool_", "w%25l", "%25%25", "nothing")
    }

    expected = ("ACM", "100%25+wool", "wool_")
    assert {search: search in expected for search in found} == found


async def test_long_lists_have_pages(operator: Visitor) -> None:
    """Fifty to a page, and a link to the next."""
    accounts = operator.house.broker.context.stores.accounts
    one = await operator.house.account("acme")
    for number in range(60):
        name = f"many-{number:03}"
        await accounts.connect(
            replace(one, name=name, external_id=name), expected=None, next_at=None, grant=None, events=[]
        )

    first = await text(operator, "/dashboard/accounts?search=many")
    second = await text(operator, "/dashboard/accounts?search=many&status=&provider=&after=many-049")

    assert (50, 10) == (first.count('scope="row"'), second.count('scope="row"'))
    assert "after=many-049" in first
    assert 'rel="next"' not in second


async def test_names_from_outside_are_text(operator: Visitor) -> None:
    """A label may hold anything printable; the page holds it as text."""
    await operator.house.broker.accounts.change(
        OPERATOR, "acme", {"label": "<b onmouseover=alert(1)>"}, request_id="test"
    )

    pages = [await text(operator, path) for path in ("/dashboard/accounts", "/dashboard/accounts/acme")]

    assert all("&lt;b onmouseover=alert(1)&gt;" in page and "<b on" not in page for page in pages)


async def test_pages_run_no_foreign_script(operator: Visitor) -> None:
    """One file of our own, nothing inline, nothing framed."""
    answer = await operator.get("/")

    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy


async def test_stream_tells_of_changes(operator: Visitor) -> None:
    """A renewal is told within a look; the broker's stop ends the stream."""
    house = operator.house
    async with operator.session.get(f"{house.internal}{operator.base}/dashboard/live") as stream:
        opened, retry = [await stream.content.readline() for _ in range(2)]
        await house.post("/token/acme/refresh")
        await house.clock.settle()
        house.clock.advance(1.1)
        lines = [await stream.content.readline() for _ in range(2)]
        house.broker.listeners.stop()
        await house.clock.settle()
        house.clock.advance(1.1)
        await stream.content.read()

    assert (b": open\n", b"retry: 2000\n") == (opened, retry)
    assert "no" == stream.headers["X-Accel-Buffering"]
    assert b"event: changed\n" in lines
    assert stream.content.at_eof()


def ailing(reason: Reason) -> list[Account]:
    """An account for each place in which a reason can stand."""
    number = REASONS.index(reason)
    return [
        replace(account(f"dead-{number}"), dead=reason, dead_since=1.0),
        replace(account(f"frozen-{number}"), frozen=reason, frozen_since=1.0),
        replace(account(f"failing-{number}"), trouble=Trouble(reason, 1.0, 1)),
        replace(account(f"uncertain-{number}"), trouble=Trouble(reason, 1.0, 1, ambiguous=1)),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_has_words(kind: EventKind) -> None:
    """With each reason; what only a later version knows is shown by its name."""
    for cause in (None, *CAUSES):
        event = Event(1.0, kind, "acme", "kit", cause)

        shown, sent = event_item(event), event_json(event)

        assert shown.word == (LATER if kind == LATER else kind.label)
        assert (kind, cause) == (sent["event"], sent["reason"])
        assert cause != LATER or shown.tone == "good" or LATER in str(shown.todo)
        assert "ACCOUNT" not in str(sent), cause
        assert "PROVIDER" not in str(sent["what_to_do"]), cause


@pytest.mark.parametrize(
    "one", [one for reason in REASONS for one in ailing(reason)], ids=lambda one: one.name
)
def test_every_account_has_words(one: Account) -> None:
    """Each status with each reason."""
    shown = account_item(one, next_renewal_at=None)

    assert one.status in set(Status)
    assert one.reason
    assert shown.happened == one.reason.happened
    assert one.reason in shown.happened or one.reason in set(Reason)
    assert account_json(one, next_renewal_at=None)["reason"] == one.reason


@pytest.mark.parametrize("outcome", [*InstallOutcome, InstallOutcome.stored(LATER)])
def test_every_outcome_of_an_install_has_a_page(outcome: InstallOutcome) -> None:
    """A member without a page of its own would be shown by its name, as one of a later version is."""
    page = result_page(InstallResult(install(), outcome, "acme"), "Kit", None)

    assert (outcome == LATER) == (LATER in str(page.lines))


async def test_nothing_that_happened_kills_a_page_a_command_or_a_webhook(tmp_path: Path) -> None:
    """Everything is in the store at once, and what a later version put there as well."""
    async with (
        open_receiver() as receiver,
        open_house(tmp_path / "run", extra=receiver.config) as house,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
    ):
        await house.connect()
        await rounds(house)
        stores, now = house.broker.context.stores, house.clock.now()
        for one in (one for reason in REASONS for one in ailing(reason)):
            await stores.accounts.connect(one, expected=None, next_at=None, grant=None, events=[])
        # The oldest are beyond the first page of events, so those that nobody could foresee come last.
        happened = [Event(now, EventKind.BROKER_DEGRADED, None, None, cause) for cause in CAUSES]
        happened += [Event(now, kind, "acme", "kit", LATER) for kind in KINDS]
        await stores.events.add_events(happened)
        await house.caller(name="later")
        await write(house, "UPDATE callers SET permissions = ?", f'["token", "{LATER}"]')
        operator = Visitor(house, session)
        await operator.sign_in()

        pages = {path: await operator.get(path) for path in PAGES}
        async with commands_at(house) as commands:
            told = {words: await commands.run(*words) for words in COMMANDS}
        await rounds(house)

    assert dict.fromkeys(PAGES, 200) == {path: answer.status for path, answer in pages.items()}
    assert all(LATER.encode() in pages[path].body for path in UNFORESEEN)
    assert dict.fromkeys(COMMANDS, 0) == {words: result.exit_code for words, result in told.items()}
    assert all(LATER in result.stdout for result in told.values())
    sent = sorted((one.event["event"], one.event["reason"]) for one in receiver.received)
    assert sent == sorted(
        (str(event.kind), str(event.reason)) for event in happened if event.kind != EventKind.RENEWED
    )


async def write(house: House, sql: str, *values: str) -> None:
    """Change the store as another version would."""

    def work() -> None:
        with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as database:
            database.execute(sql, values)
            database.commit()

    await asyncio.to_thread(work)


ENDS = {
    "/": 503,
    "/dashboard/accounts": 503,
    "/dashboard/accounts/acme": 503,
    "/dashboard/accounts/nobody/freeze": 405,
    "/dashboard/activity": 503,
    "/dashboard/callers": 500,
    "/dashboard/keys": 503,
    "/dashboard/nowhere": 404,
    "/dashboard/sign-out": 405,
    "/docs?": 200,
}
"""How each answers where the store is damaged."""


async def test_error_is_a_page_with_the_navigation(operator: Visitor) -> None:
    """Whatever goes wrong: in the store, in our own code, in the address."""
    await write(operator.house, "DROP TABLE events")
    await write(operator.house, "DROP TABLE accounts")
    operator.house.broker.callers.configured.edition = cast(Any, None)

    for path, status in ENDS.items():
        answer = await operator.get(path)

        assert (status, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"]), path
        assert status == 200 or b'<nav aria-label="Dashboard">' in answer.body, path


async def test_nobody_is_told_which_pages_there_are(visitor: Visitor) -> None:
    """Every address of the dashboard says how to get in, and asks for no key."""
    for path in ("/dashboard", "/dashboard/nowhere"):
        answer = await visitor.get(path)

        assert (403, "text/html") == (answer.status, answer.headers["Content-Type"].partition(";")[0])
        assert b"broker dashboard" in answer.body
