"""List, show, label, rename, freeze, remove, restore, purge, over the API."""

import asyncio
from dataclasses import replace

import pytest

from broker.accounts.service import MOST_FETCHED
from broker.callers.authorization import covers
from broker.model import Caller, Permission, Status
from broker.store.account_queries import AccountQuery
from tests.house import OPERATOR, House

LIFE = 172800
SHAPE = [
    "account",
    "provider",
    "status",
    "frozen",
    "reason",
    "since",
    "detail",
    "what_to_do",
    "subject",
    "external_id",
    "label",
    "org",
    "scope",
    "generation",
    "provider_expires_at",
    "expires_at",
    "refreshed_at",
    "last_used_at",
    "next_renewal_at",
    "created_at",
    "removed_at",
    "client_id",
]


async def test_account_is_shown_without_its_tokens(house: House) -> None:
    """Everything that is known, in the API's shape."""
    await house.connect()
    token = (await house.get("/token/acme")).json["access_token"]

    shown = await house.get("/accounts/acme")

    assert token not in shown.body.decode()
    assert SHAPE == list(shown.json)
    assert ("acme", "active", "29") == (
        shown.json["account"],
        shown.json["status"],
        shown.json["external_id"],
    )
    assert shown.json["last_used_at"] is not None


async def test_list_shows_only_what_the_caller_may_see(house: House) -> None:
    """Page by page."""
    for number in range(5):
        await house.connect("kit", f"a-{number}", account=str(100 + number))
    await house.connect("kustomer", "b")
    narrow = await house.caller("a-*", permissions=("accounts",), name="narrow")

    seen, cursor = [], ""
    for _ in range(5):
        page = (await house.get(f"/accounts?limit=2&cursor={cursor}", key=narrow)).json
        seen += [row["account"] for row in page["accounts"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    kustomer = (await house.get("/accounts?provider=kustomer")).json["accounts"]

    assert [f"a-{number}" for number in range(5)] == seen
    assert ["b"] == [row["account"] for row in kustomer]


async def test_removed_account_names_the_way_back(house: House) -> None:
    """Whatever is asked of it; a name that never was has none."""
    await house.connect()
    await house.broker.accounts.remove(OPERATOR, "acme", purge=False, revoke=False, request_id="test")

    answers = [
        await house.ask(method, path.format(name))
        for name in ("acme", "nobody")
        for method, path in (("GET", "/token/{}"), ("POST", "/token/{}/refresh"), ("GET", "/accounts/{}"))
    ]

    removed = "Account 'acme' was removed. For 30 days this restores it: broker accounts restore acme"
    assert {404} == {answer.status for answer in answers}
    assert 3 * [removed] + 3 * ["There is no account 'nobody'."] == [one.json["detail"] for one in answers]


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "/accounts?staus=active", "unknown parameter 'staus'; known are: cursor, expiring_within,"),
        ("HEAD", "/accounts?x=1", ""),
        ("GET", "/accounts?status=active&status=frozen", "status is there twice; give it once"),
        ("GET", "/accounts?tbk_0=1", "unknown parameter; known are: "),
        ("GET", "/accounts/acme?deep=1", "unknown parameter 'deep'; known are: none"),
        ("DELETE", "/accounts/acme?purged=1", "unknown parameter 'purged'; known are: purge, revoke"),
        ("GET", "/events?acount=acme", "unknown parameter 'acount'; known are: account"),
    ],
)
async def test_unknown_parameter_is_told(house: House, method: str, path: str, said: str) -> None:
    """A filter that is spelt wrong would let everything through, and a switch would change nothing."""
    await house.connect()

    answer = await house.ask(method, path)

    assert 400 == answer.status
    assert said in (answer.json["detail"] if answer.body else "")


async def _many(house: House, number: int) -> list[str]:
    """Accounts of three kinds of names."""
    await house.connect()
    acme, accounts = await house.account(), house.broker.context.stores.accounts
    names = [f"{'abc'[n % 3]}-{n:04d}-{'xyz'[n % 7 % 3]}" for n in range(number)]
    made = [
        replace(acme, name=name, external_id=name, sealed_access=None, sealed_refresh=None) for name in names
    ]
    await asyncio.gather(
        *(accounts.connect(one, expected=None, next_at=None, grant=None, events=[]) for one in made)
    )
    return ["acme", *names]


async def test_pages_of_a_list_read_a_bounded_number_of_rows(house: House) -> None:
    """However few of them are for the caller: a page may be short or empty, and all pages together miss none."""
    names = sorted(await _many(house, 3000))
    everything = Caller("all", ("*",), frozenset(Permission), "key")
    service = house.broker.accounts

    for globs in (
        ("*",),
        ("b-*",),
        ("b-0001-y", "b-0004-y", "nowhere", "c-2*"),
        ("*-z",),
        ("c-2999-?",),
        ("?-00[0-4]*-x", "a-1*", "acme"),
        (),
    ):
        caller, seen, pages = replace(everything, accounts=globs), list[str](), 0
        cursor: str | None = ""
        while cursor is not None:
            query = AccountQuery(after=cursor, limit=700)
            found, cursor = await service.find(caller, query, request_id="test")
            seen += [account.name for account in found]
            pages += 1
        assert [name for name in names if covers(caller, name)] == seen, globs
        assert pages <= 1 + len(names) // 700 + len(names) // MOST_FETCHED, globs


async def test_list_stops_when_its_caller_is_gone(house: House) -> None:
    """Between two steps."""
    caller, asked = Caller("all", ("a", "b", "c", "d"), frozenset(Permission), "key"), 0

    def is_gone() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    with pytest.raises(ConnectionError):
        await house.broker.accounts.find(caller, AccountQuery(), request_id="test", is_gone=is_gone)

    assert 3 == asked


@pytest.mark.parametrize("query", ["status=odd", "limit=x", "limit=0", "expiring_within=-1", "limit=999999"])
async def test_malformed_query_is_told(house: House, query: str) -> None:
    """With what would be right."""
    assert 400 == (await house.get(f"/accounts?{query}")).status


async def test_rename_keeps_the_connection(house: House) -> None:
    """The token goes on under the new name; the old one is free, and its generations never go back."""
    await house.connect()
    before = (await house.get("/token/acme")).json

    renamed = await house.ask(
        "PATCH", "/accounts/acme", json={"name": "acme-2", "label": "A", "subject": "user-1"}
    )
    after = (await house.get("/token/acme-2")).json
    gone = await house.get("/token/acme")
    house.clock.advance(LIFE)
    renewed = await house.get("/token/acme-2")
    await house.connect("kit", "acme", account="77")
    reborn = await house.account("acme")

    assert (200, "acme-2", "A", "user-1") == (
        renamed.status,
        renamed.json["account"],
        renamed.json["label"],
        renamed.json["subject"],
    )
    assert before["access_token"] == after["access_token"]
    assert (404, 200) == (gone.status, renewed.status)
    assert reborn.generation > before["generation"]


async def test_rename_takes_the_spare_that_still_works_along(house: House) -> None:
    """An answer was cut behind its refresh token: while its outcome is unknown, the spare is all that works."""
    await house.connect("kustomer", "desk")
    house.clock.advance(LIFE)
    house.sandbox.faults.set("kustomer", truncate=-1, times=1)
    for _ in range(2):
        await house.broker.tokens.flights.join((await house.account("desk")).ref)
        house.clock.advance(4)

    renamed = await house.ask("PATCH", "/accounts/desk", json={"name": "counter"})
    for _ in range(3):
        await house.broker.tokens.flights.join((await house.account("counter")).ref)
        house.clock.advance(61)

    assert 200 == renamed.status
    assert Status.ACTIVE is (await house.account("counter")).status


async def test_rename_onto_a_taken_name_is_a_conflict(house: House) -> None:
    """And changes nothing."""
    await house.connect()
    await house.connect("kustomer", "desk")

    answer = await house.ask("PATCH", "/accounts/acme", json={"name": "desk"})

    assert (409, "conflict") == (answer.status, answer.json["code"])
    assert 200 == (await house.get("/token/acme")).status


@pytest.mark.parametrize(
    ("name", "status"),
    [("b-other", 403), ("kit/A", 400), (None, 400), ("a-desk", 409)],
    ids=["not the caller's", "no name", "null", "taken"],
)
async def test_change_that_is_refused_changes_nothing(house: House, name: str | None, status: int) -> None:
    """RFC 5789, 2: all of the changes, or none; the token goes on under its name."""
    await house.connect("kit", "a-acme")
    await house.connect("kustomer", "a-desk")
    manager = await house.caller("a-*", permissions=("manage",), name="manager")
    before, more = await house.account("a-acme"), {"label": "half", "subject": "half"}

    answer = await house.ask("PATCH", "/accounts/a-acme", json={**more, "name": name}, key=manager)

    assert (status, before) == (answer.status, await house.account("a-acme"))


@pytest.mark.parametrize("name", ["acme", "acme-2"])
async def test_null_empties_label_and_subject(house: House, name: str) -> None:
    """RFC 7396; what is not given stays. Also where the account is renamed by the same request."""
    await house.connect()
    await house.ask("PATCH", "/accounts/acme", json={"label": "A", "subject": "user-1"})

    kept = await house.ask("PATCH", "/accounts/acme", json={"label": None, "name": name})
    emptied = await house.ask("PATCH", f"/accounts/{name}", json={"subject": None, "name": name})
    nothing = await house.ask("PATCH", f"/accounts/{name}", json={})

    assert (200, None, "user-1") == (kept.status, kept.json["label"], kept.json["subject"])
    assert (200, None, None) == (emptied.status, emptied.json["label"], emptied.json["subject"])
    assert 400 == nothing.status


async def test_removal_is_undone_by_restore(house: House) -> None:
    """For thirty days; after that it is purged."""
    await house.connect()

    removed = await house.ask("DELETE", "/accounts/acme")
    gone = await house.get("/token/acme")
    restored = await house.post("/accounts/acme/restore")
    back = await house.get("/token/acme")
    await house.ask("DELETE", "/accounts/acme")
    house.clock.advance(31 * 86400)
    await house.broker.accounts.purge_removed(house.clock.now())
    too_late = await house.post("/accounts/acme/restore")

    assert [204, 404, 200, 200, 404] == [one.status for one in (removed, gone, restored, back, too_late)]


async def test_generation_never_goes_back(house: House) -> None:
    """Not after removal, not after purge and reinstall."""
    await house.connect()
    house.clock.advance(LIFE)
    await house.get("/token/acme")

    await house.ask("DELETE", "/accounts/acme")
    reinstalled = await house.connect()
    await house.ask("DELETE", "/accounts/acme?purge=1")
    again = await house.connect()

    assert (3, 4) == (reinstalled.generation, again.generation)


async def test_removal_can_revoke_at_the_provider(house: House) -> None:
    """At Kit that uninstalls the app."""
    await house.connect()

    removed = await house.ask("DELETE", "/accounts/acme?revoke=1")

    [grant] = (await house.judge())["grants"]
    assert (204, True) == (removed.status, grant["revoked"])


async def test_revocation_that_is_not_confirmed_removes_nothing(house: House) -> None:
    """Kustomer has none: a conflict, and the account stays."""
    await house.connect("kustomer", "desk")

    refused = await house.ask("DELETE", "/accounts/desk?revoke=1")

    assert (409, 200) == (refused.status, (await house.get("/token/desk")).status)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/accounts/acme", {}),
        ("PATCH", "/accounts/acme", {"name": "BAD"}),
        ("PATCH", "/accounts/acme", {"label": 5}),
        ("PATCH", "/accounts/acme", {"status": "active"}),
        ("DELETE", "/accounts/acme?purge=yes", None),
        ("POST", "/accounts/BAD/freeze", None),
    ],
)
async def test_malformed_change_is_told(house: House, method: str, path: str, body: object) -> None:
    """And changes nothing."""
    before = await house.connect()

    answer = await house.ask(method, path, json=body)

    assert (400, "invalid_request") == (answer.status, answer.json["code"])
    assert body != {"status": "active"} or "unknown member 'status'" in answer.json["detail"]
    assert before == await house.account()


async def test_changes_need_the_right(house: House) -> None:
    """Reading does not imply changing, and what is not there looks like what is not yours."""
    await house.connect()
    reader = await house.caller("acme", permissions=("accounts",), name="reader")

    statuses = [
        (await house.ask("DELETE", "/accounts/acme", key=reader)).status,
        (await house.post("/accounts/acme/freeze", key=reader)).status,
        (await house.get("/accounts/other", key=reader)).status,
        (await house.get("/accounts/acme", key=reader)).status,
        (await house.get("/accounts/nobody")).status,
    ]

    assert [403, 403, 403, 200, 404] == statuses
