"""What renewing a token asks of any store: intent, commit, settlement, spares, what is due."""

import asyncio
from dataclasses import replace

import pytest

from broker.model import ENDLESS, Event, EventKind, Reason, Ref, Spare, Trouble
from broker.store import Stores
from broker.store.database import Transaction, execute
from broker.store.renewals import Committed, EpochMoved, GenerationMoved
from tests.store.rows import FIRST, account, connect, install, intent, successor


async def test_what_is_put_comes_back(stores: Stores) -> None:
    """Every field of an account survives its row."""
    full = replace(
        account(),
        label="L",
        subject="S",
        org="O",
        last_used_at=5.0,
        frozen=Reason.OPERATOR,
        frozen_since=6.0,
        dead=Reason.LOST_ROTATION,
        dead_since=7.0,
        unusable=True,
        trouble=Trouble(Reason.UNCERTAIN, 1.0, 2, 3.0, 4, 5, 6.0),
        intent=intent(),
    )

    await stores.accounts.connect(full, expected=None, next_at=None, grant=None, events=[])

    assert full == await stores.accounts.get("acme")
    assert await stores.accounts.get("nobody") is None


async def test_intent_is_a_lease(stores: Stores) -> None:
    """Free, own and expired ones are given; another's living one is not."""
    await connect(stores)

    assert await stores.accounts.begin(FIRST, intent("me"))
    assert await stores.accounts.begin(FIRST, intent("me", at=20))
    assert not await stores.accounts.begin(FIRST, intent("other", at=129))
    assert await stores.accounts.begin(FIRST, intent("me", at=129, until=129))
    assert await stores.accounts.begin(FIRST, intent("other", at=129))


@pytest.mark.parametrize("ref", [Ref("acme", 2, 1), Ref("acme", 1, 2), Ref("nobody", 1, 1)])
async def test_intent_needs_the_row_as_it_was_read(stores: Stores, ref: Ref) -> None:
    """Another epoch, another generation, another name: nothing may be sent."""
    await connect(stores)

    assert not await stores.accounts.begin(ref, intent())


@pytest.mark.parametrize("state", ["frozen", "dead", "removed"])
async def test_intent_is_refused_to_what_rests(stores: Stores, state: str) -> None:
    """Frozen, dead and removed accounts are not sent."""
    await connect(stores)
    match state:
        case "frozen":
            await stores.accounts.freeze("acme", Reason.OPERATOR, 1)
        case "dead":
            await settle(stores, dead=Reason.REVOKED_OR_EXPIRED)
        case _:
            await stores.accounts.remove("acme", 1, [])

    assert not await stores.accounts.begin(FIRST, intent())


async def settle(
    stores: Stores, *, trouble: Trouble | None = None, keep_intent: bool = False, dead: Reason | None = None
) -> bool:
    return await stores.accounts.settle(
        FIRST,
        trouble=trouble or Trouble(),
        keep_intent=keep_intent,
        dead=dead,
        next_at=5.0,
        at=2.0,
        events=[Event(2.0, EventKind.REFRESH_FAILING, "acme")],
    )


async def test_commit_makes_the_successor_current(stores: Stores) -> None:
    """Generation + 1; intent, lease, trouble and death are over; the row is handed on, and the event came with it."""
    await connect(stores)
    await stores.accounts.begin(FIRST, intent())
    await settle(stores, trouble=Trouble(Reason.UNCERTAIN, 1, 1, 2, 1, 1, 1), keep_intent=True)

    outcome = await stores.accounts.commit(successor(), [Event(3.0, EventKind.RENEWED, "acme", generation=2)])

    row = await stores.accounts.get("acme")
    assert row is not None
    assert isinstance(outcome, Committed)
    assert row == outcome.account
    assert (2, "access-2", "refresh-2", 1900) == (
        row.generation,
        row.sealed_access,
        row.sealed_refresh,
        row.expires_at,
    )
    assert (None, Trouble(), None) == (row.intent, row.trouble, row.dead)
    assert EventKind.RENEWED is (await stores.events.last_events(1))[0].kind


async def test_commit_of_a_loser_changes_nothing(stores: Stores) -> None:
    """Whoever comes second is told so, and the winner's row stands."""
    await connect(stores)
    await stores.accounts.commit(successor(), [])
    before = await stores.accounts.get("acme")

    late = await stores.accounts.commit(
        replace(successor(), sealed_refresh="late"), [Event(1, EventKind.RENEWED)]
    )

    assert GenerationMoved() == late
    assert before == await stores.accounts.get("acme")
    assert [] == await stores.events.last_events(5)


async def test_commit_of_an_old_epoch_is_dropped(stores: Stores) -> None:
    """A reinstall, or a purge, happened meanwhile."""
    one = await connect(stores)
    fresh = account(epoch=2, generation=2)
    await stores.accounts.connect(fresh, expected=one.ref, next_at=None, grant=None, events=[])

    assert EpochMoved() == await stores.accounts.commit(successor(), [])
    await stores.accounts.purge("acme", "hash")
    assert EpochMoved() == await stores.accounts.commit(successor(Ref("acme", 2, 2)), [])


async def test_commit_needs_no_lease_and_reaches_removed_rows(stores: Stores) -> None:
    """The token is there and must not be lost: only the generation counts."""
    await connect(stores)
    await stores.accounts.begin(FIRST, intent("other"))
    await stores.accounts.remove("acme", 1, [])

    assert Committed() == await stores.accounts.commit(successor(), [])


async def test_hundred_commits_at_once_have_one_winner(stores: Stores) -> None:
    """Compare and set, under a race."""
    await connect(stores)

    outcomes = await asyncio.gather(*[stores.accounts.commit(successor(), []) for _ in range(100)])

    assert 1 == outcomes.count(Committed())
    assert 99 == outcomes.count(GenerationMoved())


async def test_settlement_is_noted_and_the_intent_stays_or_goes(stores: Stores) -> None:
    """An ambiguous end keeps the intent, a definite one does not (I6)."""
    await connect(stores)
    await stores.accounts.begin(FIRST, intent())

    await settle(stores, trouble=Trouble(Reason.UNCERTAIN, ambiguous=1), keep_intent=True)
    kept = await stores.accounts.get("acme")
    await settle(stores, trouble=Trouble(Reason.PROVIDER_DECLINED), keep_intent=False)
    gone = await stores.accounts.get("acme")

    assert kept is not None
    assert gone is not None
    assert kept.intent is not None
    assert (None, Reason.PROVIDER_DECLINED) == (gone.intent, gone.trouble.reason)


async def test_settlement_of_a_moved_generation_changes_nothing(stores: Stores) -> None:
    """A late refusal says nothing about the successor."""
    await connect(stores)
    await stores.accounts.commit(successor(), [])
    before = await stores.accounts.get("acme")

    assert not await settle(stores, dead=Reason.LOST_ROTATION)
    assert before == await stores.accounts.get("acme")


async def test_boot_takes_over_what_was_left_open(stores: Stores) -> None:
    """Newest first; each counts as one ambiguous attempt, once."""
    for number, name in enumerate(("a", "b", "c")):
        await connect(stores, name)
        await stores.accounts.begin(Ref(name, 1, 1), intent("old boot", at=number))

    first = await stores.accounts.take_over("new boot", 50)
    again = await stores.accounts.take_over("new boot", 60)

    assert ["c", "b", "a"] == [one.name for one in first]
    assert {1} == {one.trouble.ambiguous for one in (*first, *again)}
    assert {"new boot"} == {one.intent.owner for one in first if one.intent}


async def test_due_accounts_come_earliest_first(stores: Stores) -> None:
    """By their time, bounded, and never those for whom nothing is to be done."""
    for name, at in (("late", 30.0), ("early", 10.0), ("never", None), ("future", 99.0)):
        await connect(stores, name, next_at=at)

    assert ["early", "late"] == [one.name for one in await stores.accounts.due(50, 10)]
    assert ["early"] == [one.name for one in await stores.accounts.due(50, 1)]
    assert 10.0 == await stores.accounts.next_due_at()


async def test_use_brings_the_next_look_forward(stores: Stores) -> None:
    """Never back, and nothing for an account that rests."""
    await connect(stores, "acme", next_at=5000.0)
    await connect(stores, "rests", next_at=None)

    await stores.accounts.touch({"acme": (40.0, 600.0), "rests": (40.0, 600.0)}, {})
    await stores.accounts.touch({"acme": (30.0, 900.0)}, {})

    row = await stores.accounts.get("acme")
    assert row is not None
    assert 40.0 == row.last_used_at
    assert ["acme"] == [one.name for one in await stores.accounts.due(600, 10)]


async def test_spares_are_kept_newest_first_and_once(stores: Stores) -> None:
    """They go with the grant they belong to."""
    one = await connect(stores)
    for number in (1, 2, 2):
        await stores.accounts.add_spare(Spare(f"s{number}", "acme", 1, 1, f"sealed-{number}", float(number)))

    spares = await stores.accounts.spares("acme", 1)
    await stores.accounts.drop_spare("s1")
    left = await stores.accounts.spares("acme", 1)
    fresh = account(epoch=2, generation=2)
    await stores.accounts.connect(fresh, expected=one.ref, next_at=None, grant=None, events=[])

    assert ["s2", "s1"] == [spare.id for spare in spares]
    assert ["s2"] == [spare.id for spare in left]
    assert [] == await stores.accounts.spares("acme", 1)


async def test_changes_are_told_after_they_are_durable(stores: Stores) -> None:
    """Whoever hears of a change reads the new row."""
    seen: list[str] = []
    stores.changes.listen(seen.append)

    await connect(stores)
    await stores.accounts.commit(successor(), [])
    await stores.accounts.freeze("acme", Reason.OPERATOR, 1)

    assert ["acme"] * 3 == seen


async def test_caller_who_gives_up_changes_nothing(stores: Stores) -> None:
    """A cancelled writer cancels only its own waiting; the write is whole or not there."""
    await connect(stores)
    writing = asyncio.create_task(stores.accounts.commit(successor(), []))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)

    await stores.keys.set_meta("after", "x")

    row = await stores.accounts.get("acme")
    assert row is not None
    assert (row.generation, row.sealed_access) in {(1, "access-1"), (2, "access-2")}
    assert "x" == await stores.keys.meta("after")


async def test_writers_who_give_up_harm_nobody(stores: Stores) -> None:
    """Two hundred at once, every second one cancelled somewhere: each write is whole, the others' are all there."""
    writing = [asyncio.create_task(stores.keys.set_meta(f"k{number}", "v")) for number in range(200)]
    for number in range(0, 200, 2):
        await asyncio.sleep(0)
        writing[number].cancel()
    results = await asyncio.gather(*writing, return_exceptions=True)

    found = [await stores.keys.meta(f"k{number}") for number in range(200)]

    assert [None] * 100 == results[1::2]
    assert ["v"] * 100 == found[1::2]


async def test_work_that_raises_undoes_only_itself(stores: Stores) -> None:
    """Others of the same commit are stored."""

    async def wrong(transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO meta (key, value) VALUES ('half', 'x')")
        raise LookupError("mine")

    others = [stores.keys.set_meta(f"k{number}", "v") for number in range(20)]
    results = await asyncio.gather(*others, stores.database.write(wrong), return_exceptions=True)

    assert isinstance(results[-1], LookupError)
    assert await stores.keys.meta("half") is None
    assert {"v"} == {await stores.keys.meta(f"k{number}") for number in range(20)}


async def test_statement_that_is_wrong_undoes_only_its_work(stores: Stores) -> None:
    """A row that is there already must not cost somebody else a rotated token."""
    await connect(stores)
    await stores.installs.begin_install(install())

    wrong, outcome, _ = await asyncio.gather(
        stores.installs.begin_install(install()),
        stores.accounts.commit(successor(), []),
        stores.keys.set_meta("k", "v"),
        return_exceptions=True,
    )

    assert isinstance(wrong, Exception)
    assert (Committed(), "v") == (outcome, await stores.keys.meta("k"))


async def test_next_look_is_set_for_its_generation_only(stores: Stores) -> None:
    """A plan for a token that has been renewed meanwhile is void."""
    await connect(stores, next_at=500.0)

    await stores.accounts.schedule(FIRST, 50.0)
    planned = await stores.accounts.next_due_at()
    await stores.accounts.schedule(Ref("acme", 1, 2), 5.0)
    unchanged = await stores.accounts.next_due_at()
    await stores.accounts.schedule(FIRST, None)

    assert (50.0, 50.0) == (planned, unchanged)
    assert await stores.accounts.next_due_at() is None


async def test_only_account_of_a_provider_is_known(stores: Stores) -> None:
    """Removed ones do not count, and others' neither (R9)."""
    for name in ("a", "b"):
        await connect(stores, name)
    two = await stores.accounts.is_only_account("kit")
    await stores.accounts.remove("a", 1, [])

    assert not two
    assert await stores.accounts.is_only_account("kit")
    assert await stores.accounts.is_only_account("kustomer")


async def test_oldest_open_intent_is_told(stores: Stores) -> None:
    """For the metric: how long a renewal has been without an outcome."""
    for name in ("a", "b"):
        await connect(stores, name)
    none = await stores.accounts.oldest_intent_at()
    await stores.accounts.begin(Ref("a", 1, 1), intent(at=20))
    await stores.accounts.begin(Ref("b", 1, 1), intent(at=10))
    oldest = await stores.accounts.oldest_intent_at()
    await stores.accounts.commit(successor(Ref("b", 1, 1)), [])

    assert (None, 10.0, 20.0) == (none, oldest, await stores.accounts.oldest_intent_at())


async def test_attempt_that_ended_in_doubt_is_anybodys_after_its_quarantine(stores: Stores) -> None:
    """The intent stays; its lease does not, so that no account waits for the one broker."""
    await connect(stores)
    await stores.accounts.begin(FIRST, intent("me"))

    async def end(free_after: float) -> None:
        await stores.accounts.settle(
            FIRST,
            trouble=Trouble(Reason.UNCERTAIN, ambiguous=1),
            keep_intent=True,
            dead=None,
            next_at=None,
            at=12.0,
            events=[],
            intent="i",
            free_after=free_after,
        )

    await end(30.0)
    early = await stores.accounts.begin(FIRST, intent("other", at=13.0))
    await end(0.0)
    row = await stores.accounts.get("acme")
    later = await stores.accounts.begin(FIRST, intent("other", at=13.0))

    assert (False, True) == (early, later)
    assert row is not None
    assert row.intent is not None
    assert row.intent.owner is None


async def test_attempt_of_another_is_not_settled(stores: Stores) -> None:
    """Whoever comes late with an older attempt's outcome changes nothing of the one that is under way."""
    await connect(stores)
    await stores.accounts.begin(FIRST, intent("me"))
    before = await stores.accounts.get("acme")

    settled = [
        await stores.accounts.settle(
            FIRST,
            trouble=Trouble(Reason.PROVIDER_DECLINED),
            keep_intent=False,
            dead=None,
            next_at=None,
            at=12.0,
            events=[],
            intent=expected,
        )
        for expected in ("", "another")
    ]

    assert [False, False] == settled
    assert before == await stores.accounts.get("acme")


async def test_attempt_that_nobody_concluded_counts_as_ambiguous(stores: Stores) -> None:
    """Once its lease has run out, or at once where it was one's own; the lease is nobody's then."""
    await connect(stores)
    await stores.accounts.begin(FIRST, intent("me"))

    async def orphaned(owner: str, at: float = 12.0) -> bool:
        return await stores.accounts.orphaned(FIRST, "i", owner, at=at, not_before=22.0)

    foreign, own, again = await orphaned("other"), await orphaned("me"), await orphaned("me")
    row = await stores.accounts.get("acme")
    await stores.accounts.begin(FIRST, intent("me", at=30.0, until=30.0))
    expired = await orphaned("other", at=30.0)

    assert (False, True, False, True) == (foreign, own, again, expired)
    assert row is not None
    assert (1, 22.0, Reason.UNCERTAIN) == (row.trouble.ambiguous, row.trouble.not_before, row.trouble.reason)


async def test_boot_takes_over_its_own_replicas_leases_alone(stores: Stores) -> None:
    """What another broker on the same store is at stays its own."""
    for name, owner in (("a", "0123456789abcdef@one"), ("b", "fedcba9876543210@two")):
        await connect(stores, name)
        await stores.accounts.begin(Ref(name, 1, 1), intent(owner))

    taken = await stores.accounts.take_over("aaaaaaaaaaaaaaaa@one", 50, replica="one")

    other = await stores.accounts.get("b")
    assert ["a"] == [one.name for one in taken]
    assert other is not None
    assert other.intent is not None
    assert "fedcba9876543210@two" == other.intent.owner


async def test_claimed_account_is_due_again_only_later(stores: Stores) -> None:
    """So that of several brokers one looks after it."""
    await connect(stores, next_at=10.0)

    first = await stores.accounts.due(50, 10, claim_until=80.0)
    second = await stores.accounts.due(50, 10, claim_until=80.0)

    assert (["acme"], []) == ([one.name for one in first], second)
    assert 80.0 == await stores.accounts.next_due_at()


@pytest.mark.parametrize("by", [1000.0, -1000.0])
async def test_times_of_this_run_move_with_the_clock(stores: Stores, by: float) -> None:
    """What was noted before it does not, nor what ends as the clock says."""
    now = 1_000_000.0
    old = replace(account("old"), issued_at=now - 5000, expires_at=now + 9000, refreshed_at=now - 5000)
    new = replace(account("new"), issued_at=now - 50, expires_at=now + 9000, refreshed_at=now - 50)
    waits = replace(old, name="waits", external_id=None, trouble=replace(old.trouble, not_before=now + 30))
    for one in (old, new, waits):
        await stores.accounts.connect(one, expected=None, next_at=now + 8000, grant=None, events=[])

    await stores.accounts.shift_times(by, since=now - 100, until=now)

    assert old == await stores.accounts.get("old")
    moved = await stores.accounts.get("new")
    assert moved == replace(
        new, issued_at=now - 50 + by, expires_at=now + 9000 + by, refreshed_at=now - 50 + by
    )
    still = await stores.accounts.get("waits")
    assert still is not None
    assert (now + 30 + by, old.issued_at) == (still.trouble.not_before, still.issued_at)


async def test_what_a_wrong_clock_noted_is_due(stores: Stores) -> None:
    """A token issued in the future, and a pause that is longer than any."""
    now = 1_000_000.0
    usual = replace(account("usual"), issued_at=now - 50, expires_at=now + 9000)
    future = replace(usual, name="future", external_id=None, issued_at=now + 50)
    waits = replace(
        usual, name="waits", external_id=None, trouble=replace(usual.trouble, not_before=now + 9000)
    )
    for one in (usual, future, waits):
        await stores.accounts.connect(one, expected=None, next_at=now + 8000, grant=None, events=[])

    await stores.accounts.make_due(now, issued_after=now + 10, paused_until=now + 7200)

    assert {"future", "waits"} == {one.name for one in await stores.accounts.due(now, 10)}


async def test_newest_row(stores: Stores) -> None:
    """A renewal's or an event's, whichever came later."""
    assert await stores.accounts.newest_at() is None
    await connect(stores)
    first = await stores.accounts.newest_at()
    await stores.events.add_events([Event(300.0, EventKind.CONNECTED, "acme", "kit")])

    assert (100.0, 300.0) == (first, await stores.accounts.newest_at())


@pytest.mark.parametrize("value", ["'Infinity'", "'NaN'", "1e308", "-1"])
@pytest.mark.parametrize("column", ["expires_at", "refreshed_at", "trouble_since"])
async def test_number_out_of_range_hurts_its_account_alone(stores: Stores, column: str, value: str) -> None:
    """Aggregates leave it out; what is due notes it with an event, and the rest is as due as before."""
    for name in ("acme", "zed"):
        await connect(stores, name, next_at=5)
    sql = f"UPDATE accounts SET {column} = {value} WHERE name = 'acme'"
    await execute(stores.database, sql)

    damaged, newest = await stores.accounts.damaged(9), await stores.accounts.newest_at()
    groups = [one async for one in stores.accounts.groups(used_since=0, span=60)]
    due = await stores.accounts.due(9, 9, claim_until=60)

    assert ["acme"] == damaged == await stores.accounts.damaged(9)
    assert newest is not None
    assert 0 <= newest < 1e12
    assert 2 == sum(group.count for group in groups)
    assert ["zed"] == [one.name for one in due]
    [event] = await stores.events.last_events(1)
    assert ("acme", "record_damaged", f"damaged: {column}") == (event.account, event.reason, event.detail)


@pytest.mark.parametrize("life", [1.0, ENDLESS, 5 * ENDLESS])
async def test_token_of_any_life_is_not_damaged(stores: Stores, life: float) -> None:
    """Nor one that no later version's choices are known of."""
    legal = replace(account(), expires_at=account().issued_at + life, grant_ends_at=0.0)
    await stores.accounts.connect(legal, expected=None, next_at=None, grant=None, events=[])
    await execute(stores.database, "UPDATE accounts SET trouble = 'of a later version'")

    found = await stores.accounts.get("acme")

    assert found is not None
    assert (None, legal.expires_at, []) == (found.dead, found.expires_at, await stores.accounts.damaged(9))
