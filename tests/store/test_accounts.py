"""What looking after accounts asks of any store."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from broker.admin.overview import read_statistics
from broker.model import Event, EventKind, InstallOutcome, PendingGrant, Reason, Ref, Spare, Status, Trouble
from broker.store import Stores
from broker.store.account_queries import AccountQuery
from broker.store.accounts import IdentityTaken, TicketSpent
from tests.store.rows import FIRST, account, connect, install, intent, successor, ticket


async def test_connect_is_conditioned_on_what_was_read(stores: Stores) -> None:
    """A row that appeared, moved or went meanwhile makes it read again."""
    one = await connect(stores)

    appeared = await stores.accounts.connect(account(), expected=None, next_at=None, grant=None, events=[])
    fresh = account(epoch=2, generation=2)
    taken = await stores.accounts.connect(fresh, expected=one.ref, next_at=None, grant=None, events=[])
    moved = await stores.accounts.connect(fresh, expected=one.ref, next_at=None, grant=None, events=[])

    assert (False, True, False) == (appeared, taken, moved)
    assert fresh == await stores.accounts.get("acme")


async def test_accounts_are_found_by_what_they_are(stores: Stores) -> None:
    """Provider, status, subject, expiry; in the order of their names, page by page."""
    for name in ("a", "b", "c"):
        await connect(stores, name)
    await stores.accounts.freeze("b", Reason.OPERATOR, 1)
    await stores.accounts.relabel("c", label=None, subject="user-1")
    await stores.accounts.remove("a", 1, [])

    async def names(query: AccountQuery) -> list[str]:
        return [one.name for one in await stores.accounts.find(query)]

    assert ["b", "c"] == await names(AccountQuery())
    assert ["b"] == await names(AccountQuery(limit=1))
    assert ["c"] == await names(AccountQuery(after="b"))
    assert ["b"] == await names(AccountQuery(status=Status.FROZEN))
    assert ["c"] == await names(AccountQuery(subject="user-1"))
    assert [] == await names(AccountQuery(provider="kustomer"))
    assert [] == await names(AccountQuery(expiring_before=999))
    assert ["a"] == await names(AccountQuery(removed=True))
    assert ["b"] == await names(AccountQuery(low="b", high="b"))
    assert ["c"] == await names(AccountQuery(low="a~", high="c~", after="b"))
    assert [] == await names(AccountQuery(low="a", high="c", after="c"))


async def test_a_query_tells_how_many_rows_it_reads(stores: Stores) -> None:
    """Those that no index leaves out, in the order of their names; up to a number."""
    for name in ("a", "b", "c", "d", "e"):
        await connect(stores, name)
    await stores.accounts.freeze("b", Reason.OPERATOR, 1)
    await stores.accounts.relabel("c", label=None, subject="user-1")

    reached = [
        await stores.accounts.reach(query, 3)
        for query in (
            AccountQuery(),
            AccountQuery(after="c"),
            AccountQuery(provider="kustomer"),
            AccountQuery(high="b"),
            AccountQuery(status=Status.FROZEN),
            AccountQuery(status=Status.UNCERTAIN),
            AccountQuery(subject="user-1"),
            AccountQuery(low="x", high="x"),
        )
    ]

    assert [(3, "c"), (2, "e"), (3, "c"), (2, "b"), (1, "b"), (0, ""), (1, "c"), (0, "")] == reached


async def test_status_in_sql_is_the_status_in_python(stores: Stores) -> None:
    """Both decide alike for every mixture of troubles."""
    mixtures = [
        account("plain"),
        replace(account("dead"), dead=Reason.LOST_ROTATION, frozen=Reason.OPERATOR),
        replace(account("frozen"), frozen=Reason.OPERATOR, trouble=Trouble(Reason.UNCERTAIN, ambiguous=1)),
        replace(account("uncertain"), trouble=Trouble(Reason.UNCERTAIN, ambiguous=1), intent=intent()),
        replace(account("failing"), trouble=Trouble(Reason.PROVIDER_UNAVAILABLE)),
        replace(account("rejected"), trouble=Trouble(Reason.REJECTED)),
        replace(account("flying"), intent=intent()),
    ]
    for one in mixtures:
        await stores.accounts.connect(one, expected=None, next_at=None, grant=None, events=[])

    for one in mixtures:
        found = await stores.accounts.find(AccountQuery(status=one.status, limit=50))
        assert one.name in {row.name for row in found}, one.name
    assert (
        Counter(("kit", one.status) for one in mixtures) == (await read_statistics(stores.accounts, 0)).counts
    )


async def test_removed_accounts_are_not_counted(stores: Stores) -> None:
    """Whatever ails them, and a provider with no others is not named."""
    ailing = {"alive": Trouble(), "gone": Trouble(), "failing": Trouble(Reason.PROVIDER_UNAVAILABLE)}
    for name, trouble in ailing.items():
        one = replace(account(name), trouble=trouble, provider="kit" if name == "alive" else "kustomer")
        await stores.accounts.connect(one, expected=None, next_at=None, grant=None, events=[])
        if name != "alive":
            await stores.accounts.remove(name, 1, [])

    assert {("kit", Status.ACTIVE): 1} == (await read_statistics(stores.accounts, 0)).counts


async def test_identity_belongs_to_one_that_is_not_removed(stores: Stores) -> None:
    """A removed account does not hold its identity."""
    await connect(stores)
    found = await stores.accounts.by_identity("kit", "id of acme")
    await stores.accounts.remove("acme", 1, [])

    assert found is not None
    assert await stores.accounts.by_identity("kit", "id of acme") is None
    assert await stores.accounts.by_identity("kustomer", "id of acme") is None


async def test_removal_is_undone_for_a_while(stores: Stores) -> None:
    """Not when it is older than asked for; its event is told once."""
    await connect(stores)
    event = Event(5.0, EventKind.DISCONNECTED, "acme")

    removed = [await stores.accounts.remove("acme", 5.0, [event]) for _ in range(2)]
    too_late = await stores.accounts.restore("acme", 6.0, 7.0)
    restored = await stores.accounts.restore("acme", 5.0, 7.0)

    assert ([True, False], False, True) == (removed, too_late, restored)
    assert 1 == len(await stores.events.last_events(9))
    assert ["acme"] == [one.name for one in await stores.accounts.due(7.0, 9)]


async def test_purge_forgets_all_but_the_last_generation(stores: Stores) -> None:
    """Under a hash of the name, so that generations never go back."""
    await connect(stores)
    await stores.accounts.commit(successor(), [Event(1.0, EventKind.RENEWED, "acme")])

    await stores.accounts.purge("acme", "hash of acme")

    assert await stores.accounts.get("acme") is None
    assert (1, 2) == await stores.accounts.purged("hash of acme")
    assert [] == await stores.events.last_events(9)
    assert await stores.accounts.purged("hash of other") is None


async def test_rename_moves_the_row_unless_it_is_being_renewed(stores: Stores) -> None:
    """A taken name, a moved generation or an open intent keeps everything as it is."""
    await connect(stores)
    await connect(stores, "taken")
    renamed = replace(account("new"), generation=2)
    spare = Spare("s", "new", 1, 2, "sealed", 1.0)

    async def rename(ref: Ref, name: str) -> bool:
        to = replace(renamed, name=name)
        return await stores.accounts.rename(
            ref, to, spares=[spare], next_at=None, old_name_hash="hash of acme"
        )

    taken = await rename(FIRST, "taken")
    moved = await rename(Ref("acme", 1, 5), "new")
    await stores.accounts.begin(FIRST, intent())
    flying = await rename(FIRST, "new")
    await stores.accounts.settle(
        FIRST, trouble=Trouble(), keep_intent=False, dead=None, next_at=None, at=1, events=[]
    )
    done = await rename(FIRST, "new")

    assert (False, False, False, True) == (taken, moved, flying, done)
    assert await stores.accounts.get("acme") is None
    assert renamed == await stores.accounts.get("new")
    assert [spare] == await stores.accounts.spares("new", renamed.epoch)
    assert (1, 1) == await stores.accounts.purged("hash of acme")


@pytest.mark.parametrize("holder", [None, "globex"])
async def test_late_identity_reaches_a_renewed_grant(stores: Stores, holder: str | None) -> None:
    """Whatever its generation; where another account has that identity, this one is frozen as its duplicate."""
    await connect(stores)
    await stores.accounts.commit(successor(), [])
    if holder is not None:
        other = replace(account(holder), external_id="31")
        await stores.accounts.connect(other, expected=None, next_at=None, grant=None, events=[])

    told = [Event(9.0, kind, "acme") for kind in (EventKind.CONNECTED, EventKind.FROZEN)]
    is_its_own = await stores.accounts.identify(
        FIRST, external_id="31", label="L", at=9.0, grant="state", events=told[:1], if_frozen=told[1:]
    )

    row = await stores.accounts.get("acme")
    assert row is not None
    expected = (
        (True, "31", None, None) if holder is None else (False, "id of acme", Reason.DUPLICATE_IDENTITY, 9.0)
    )
    assert (*expected, "L") == (is_its_own, row.external_id, row.frozen, row.frozen_since, row.label)
    [event] = await stores.events.last_events(5)
    assert told[holder is not None].kind is event.kind


async def test_reconnecting_forgets_the_pending_grant_or_nothing(stores: Stores) -> None:
    """One transaction: who loses the race keeps the sealed grant for the next try, and tells no event."""
    one = await connect(stores)
    event = Event(1.0, EventKind.CONNECTED, "acme")
    await stores.installs.begin_install(install())
    await stores.installs.hold_grant(PendingGrant(install(), "a", "r", "Bearer", "", 1.0, 2.0, 50.0))

    async def reconnect(expected: Ref | None) -> bool:
        return await stores.accounts.connect(
            account(epoch=2, generation=2), expected=expected, next_at=None, grant="state", events=[event]
        )

    lost = await reconnect(None), await reconnect(Ref("acme", 1, 9)), await reconnect(Ref("acme", 3, 1))
    held, told = await stores.installs.held_grants(99, 9), await stores.events.last_events(9)
    won = await reconnect(one.ref)

    assert ((False, False, False), 1, []) == (lost, len(held), told)
    assert (True, []) == (won, await stores.installs.held_grants(99, 9))
    assert 1 == len(await stores.events.last_events(9))


async def test_reconnected_account_lives_again(stores: Stores) -> None:
    """A new grant ends death, removal, trouble and the lease of the old one's renewal."""
    await connect(stores)
    await stores.accounts.begin(FIRST, intent("other"))
    await stores.accounts.settle(
        FIRST,
        trouble=Trouble(Reason.UNCERTAIN, ambiguous=2),
        keep_intent=True,
        dead=Reason.LOST_ROTATION,
        next_at=None,
        at=1,
        events=[],
    )
    await stores.accounts.remove("acme", 2, [])
    fresh = account(epoch=2, generation=2)

    assert await stores.accounts.connect(fresh, expected=FIRST, next_at=9.0, grant=None, events=[])
    assert fresh == await stores.accounts.get("acme")
    assert await stores.accounts.begin(fresh.ref, intent("me"))


async def test_fifty_reinstalls_at_once_have_one_winner(stores: Stores) -> None:
    """Each was built from the same row; the rest read again."""
    one = await connect(stores)
    fresh = account(epoch=2, generation=2)

    won = await asyncio.gather(
        *[
            stores.accounts.connect(fresh, expected=one.ref, next_at=None, grant=None, events=[])
            for _ in range(50)
        ]
    )

    assert 1 == won.count(True)


async def test_frozen_account_rests_until_it_is_thawed(stores: Stores) -> None:
    """The background does not look at it meanwhile, and at once afterwards."""
    await connect(stores, next_at=10.0)

    assert await stores.accounts.freeze("acme", Reason.OPERATOR, 5.0)
    frozen, resting = await stores.accounts.get("acme"), await stores.accounts.next_due_at()
    assert await stores.accounts.freeze("acme", None, 7.0)
    thawed = await stores.accounts.get("acme")

    assert frozen is not None
    assert thawed is not None
    assert (Reason.OPERATOR, 5.0, None) == (frozen.frozen, frozen.frozen_since, resting)
    assert (None, None, 7.0) == (thawed.frozen, thawed.frozen_since, await stores.accounts.next_due_at())
    assert not await stores.accounts.freeze("nobody", None, 1.0)


async def test_restored_account_that_was_frozen_still_rests(stores: Stores) -> None:
    """Undoing a removal undoes nothing else."""
    await connect(stores)
    await stores.accounts.freeze("acme", Reason.OPERATOR, 1.0)
    await stores.accounts.remove("acme", 2.0, [])

    assert await stores.accounts.restore("acme", 0.0, 9.0)
    assert await stores.accounts.next_due_at() is None


async def test_removed_account_is_not_changed(stores: Stores) -> None:
    """Neither frozen nor relabelled; it waits to be purged."""
    await connect(stores)
    await stores.accounts.remove("acme", 5.0, [])

    assert not await stores.accounts.freeze("acme", Reason.OPERATOR, 6.0)
    assert not await stores.accounts.relabel("acme", label="L", subject=None)
    assert [] == await stores.accounts.removed_before(5.0, 9)
    assert ["acme"] == await stores.accounts.removed_before(6.0, 9)


async def test_purge_takes_the_spares_too(stores: Stores) -> None:
    """And of a name that is not there it says so."""
    await connect(stores)
    await stores.accounts.add_spare(Spare("s", "acme", 1, 1, "sealed", 1.0))

    assert await stores.accounts.purge("acme", "hash")
    assert [] == await stores.accounts.spares("acme", 1)
    assert not await stores.accounts.purge("acme", "hash")
    assert (1, 1) == await stores.accounts.purged("hash")


async def test_pages_cover_everybody_once(stores: Stores) -> None:
    """By the last name of the page before."""
    names = [f"a{number:03}" for number in range(25)]
    for name in reversed(names):
        await connect(stores, name)

    seen: list[str] = []
    while page := await stores.accounts.find(AccountQuery(after=seen[-1] if seen else "", limit=10)):
        seen += [one.name for one in page]

    assert names == seen


async def test_one_identity_becomes_one_account_also_in_a_race(stores: Stores) -> None:
    """Ten names at once, for three identities: each identity gets one of them."""
    found = await asyncio.gather(
        *[
            stores.accounts.connect(
                replace(account(f"a{number}"), external_id=f"id-{number % 3}"),
                expected=None,
                next_at=None,
                grant=None,
                events=[],
            )
            for number in range(10)
        ]
    )

    rows = await stores.accounts.find(AccountQuery())
    assert 3 == found.count(True) == len(rows)
    assert {"id-0", "id-1", "id-2"} == {row.external_id for row in rows}


@pytest.mark.parametrize(
    ("provider", "external_id", "restored"),
    [("kit", "id of acme", False), ("kustomer", "id of acme", True), ("kit", "another", True)],
)
async def test_removed_account_is_not_restored_beside_its_double(
    stores: Stores, provider: str, external_id: str, restored: bool
) -> None:
    """Whoever connected the identity meanwhile keeps it; the error names that account."""
    await connect(stores)
    await stores.accounts.remove("acme", 5.0, [])
    other = replace(account("globex", provider=provider), external_id=external_id)
    assert await stores.accounts.connect(other, expected=None, next_at=None, grant=None, events=[])

    if restored:
        assert await stores.accounts.restore("acme", 0.0, 9.0)
    else:
        with pytest.raises(IdentityTaken, match="globex"):
            await stores.accounts.restore("acme", 0.0, 9.0)


async def test_identity_that_may_be_cut_is_confirmed(stores: Stores) -> None:
    """Until then nobody finds it, it is in nobody's way, and rename, removal and restoring keep it so."""
    of = stores.accounts
    for name in ("acme", "beta"):
        await connect(stores, name)
    await stores.database.write(
        lambda one: one.execute("UPDATE accounts SET identity_double = 'cut ' || name")
    )
    await stores.database.write(lambda one: one.execute("UPDATE accounts SET external_id = 'cut'"))
    new = replace(account("new"), external_id="cut")

    assert await of.by_identity("kit", "cut") is None
    assert await of.connect(new, expected=None, next_at=None, grant=None, events=[])
    renamed = replace(account("alef"), external_id="cut")
    assert await of.rename(FIRST, renamed, spares=[], next_at=None, old_name_hash="h")
    assert await of.remove("alef", 5.0, [])
    assert await of.restore("alef", 0.0, 9.0)
    assert ["alef", "beta"] == [one.name for one in await of.maybe_cut("kit", "cut")]
    assert [] == await of.doubles(9)
    for name, whole in (("alef", "cut"), ("beta", "cut off")):
        ref = Ref(name, 1, 1)
        assert await of.identify(ref, external_id=whole, label=None, at=9.0, grant="")
    assert (new, []) == (await of.by_identity("kit", "cut"), await of.maybe_cut("kit", "cut"))
    assert "beta" == getattr(await of.by_identity("kit", "cut off"), "name", None)
    assert [("new", "alef")] == await of.doubles(9)
    assert (renamed.frozen, renamed.external_id) == (None, getattr(await of.get("alef"), "external_id", ""))


async def test_double_is_renamed_and_gives_up_its_identity(stores: Stores) -> None:
    """One left by an earlier version keeps its mark under another name, and loses it with the identity."""
    of = stores.accounts
    for name in ("acme", "beta"):
        await connect(stores, name)
    await stores.database.write(
        lambda one: one.execute(
            "UPDATE accounts SET external_id = 'x', identity_double = 'd' WHERE name = 'acme'"
        )
    )
    await stores.database.write(lambda one: one.execute("UPDATE accounts SET external_id = 'x'"))
    renamed = replace(account("gamma"), external_id="x")

    assert await of.rename(FIRST, renamed, spares=[], next_at=None, old_name_hash="h")
    assert [("beta", "gamma")] == await of.doubles(9)
    other = replace(account("gamma", epoch=2, generation=2), external_id="y")
    assert await of.connect(other, expected=renamed.ref, next_at=None, grant=None, events=[])
    third = replace(account("third"), external_id="y")
    assert not await of.connect(third, expected=None, next_at=None, grant=None, events=[])
    assert [] == await of.doubles(9)
    [mark] = await stores.database.read("SELECT identity_double FROM accounts WHERE name = 'gamma'")
    assert ("",) == tuple(mark)


@pytest.mark.parametrize(
    "how", ["connected twice", "replaced by a newer link", "connected while its grant waited"]
)
async def test_ticket_connects_once(stores: Stores, how: str) -> None:
    """In the transaction that connects: the second install of a link changes nothing, and its grant is kept."""
    await stores.installs.add_ticket(ticket())
    for state in ("first", "second"):
        await stores.installs.begin_install(install(state, ticket_hash="t"))
    if how == "replaced by a newer link":
        await stores.installs.add_ticket(ticket("newer"))
    else:
        assert await stores.accounts.connect(
            account(),
            expected=None,
            next_at=None,
            grant="first",
            events=[],
            keep_grant=how == "connected while its grant waited",
        )
    before = await stores.accounts.get("acme")

    with pytest.raises(TicketSpent):
        await stores.accounts.connect(
            account(epoch=2, generation=2),
            expected=before.ref if before else None,
            next_at=None,
            grant="second",
            events=[Event(1.0, EventKind.CONNECTED, "acme")],
        )

    assert before == await stores.accounts.get("acme")
    assert [] == await stores.events.last_events(9)
    second = await stores.installs.install("second")
    assert second is not None
    assert second.outcome is None


async def test_ticket_of_a_waiting_grant_is_kept(stores: Stores) -> None:
    """For as long as the identity takes: neither age nor a newer link keeps that grant from connecting."""
    await stores.installs.add_ticket(ticket())
    await stores.installs.begin_install(install(ticket_hash="t"))
    await stores.installs.hold_grant(PendingGrant(install(), "a", "r", "Bearer", "", 1.0, 2.0, 50.0))

    await stores.installs.add_ticket(ticket("newer"))
    await stores.installs.purge_expired(10_000, 100)
    connected = await stores.accounts.connect(
        account(), expected=None, next_at=None, grant="state", events=[]
    )

    shown, spent = await stores.installs.install("state"), await stores.installs.ticket("t")
    assert connected
    assert (InstallOutcome.CONNECTED, "acme") == (shown and shown.outcome, shown and shown.outcome_account)
    assert (100.0, None) == (spent and spent.spent_at, await stores.installs.ticket("newer"))


ADD_GRANT = """
INSERT INTO plugin_grants (id, client, subject, scope, created_at, last_used_at, expires_at, code_hash, account)
VALUES ($1, 'kit', $1, '', 1, 1, 9, $1, $2)"""


@pytest.mark.parametrize(
    ("subject", "remains"),
    [("victim-42", 2), ("nobody", 2), ("its-own", 1), (None, 2)],
)
async def test_purge_erases_no_other_persons_events(
    stores: Stores, subject: str | None, remains: int
) -> None:
    """Whatever subject an account was given: what goes is what the account's own plugin grants tell of."""
    await connect(stores)
    joined = "acme" if subject == "its-own" else "other"
    await stores.database.write(
        lambda one: one.execute_all(ADD_GRANT, [("victim-42", None), ("its-own", joined)])
    )
    for person in ("victim-42", "its-own"):
        await stores.events.add_events([Event(1.0, EventKind.PLUGIN_CONNECTED, subject=person)])
    await stores.installs.begin_install(replace(install("theirs"), account=None, subject="victim-42"))
    await stores.installs.take_install("theirs", 5.0)
    await stores.accounts.relabel("acme", label=None, subject=subject)

    await stores.accounts.purge("acme", "hash")

    assert remains == len(await stores.events.last_events(9))
    assert await stores.installs.install("theirs") is not None
