"""Installs, sign-ins, callers, events and keys, on any store."""

import asyncio
from dataclasses import replace

from broker.encryption.keyring import Master, Purpose
from broker.model import Event, EventKind, InstallOutcome, PendingGrant, PendingLogin
from broker.store import Stores
from tests.store.rows import account, caller, connect, install, key, ticket


async def test_state_is_taken_once_under_a_race(stores: Stores) -> None:
    """Fifty at once: one gets it."""
    await stores.installs.begin_install(install())

    taken = await asyncio.gather(*[stores.installs.take_install("state", 5.0) for _ in range(50)])

    assert 1 == taken.count(True)
    assert not await stores.installs.take_install("unknown", 5.0)


async def test_install_comes_back_as_it_was(stores: Stores) -> None:
    """Every field, and how it ended."""
    await stores.installs.add_ticket(ticket())
    await stores.installs.begin_install(install(ticket_hash="t"))

    before = await stores.installs.install("state")
    await stores.accounts.connect(account(), expected=None, next_at=None, grant="state", events=[])
    after, spent = await stores.installs.install("state"), await stores.installs.ticket("t")

    assert install(ticket_hash="t") == before
    assert after is not None
    assert spent is not None
    assert (InstallOutcome.CONNECTED, "acme", None) == (
        after.outcome,
        after.outcome_account,
        after.sealed_verifier,
    )
    assert account().refreshed_at == spent.spent_at


async def test_one_live_ticket_an_account(stores: Stores) -> None:
    """A newer link makes the older one worthless; unnamed ones do not disturb each other."""
    for name in ("t1", "t2"):
        await stores.installs.add_ticket(ticket(name))
        await stores.installs.add_ticket(ticket(f"unnamed-{name}", None))

    assert await stores.installs.ticket("t1") is None
    assert ticket("t2") == await stores.installs.ticket("t2")
    assert ticket("unnamed-t1", None) == await stores.installs.ticket("unnamed-t1")


async def test_held_grant_waits_for_its_identity(stores: Stores) -> None:
    """Over any time, until it is dropped; and its install is not purged meanwhile."""
    await stores.installs.begin_install(install())
    grant = PendingGrant(install(), "access", "refresh", "Bearer", "public", 1.0, 2.0, 50.0)

    await stores.installs.hold_grant(grant)
    early, due = await stores.installs.held_grants(49, 9), await stores.installs.held_grants(50, 9)
    await stores.installs.purge_expired(10_000, 100)
    still = await stores.installs.held_grants(50, 9)
    await stores.installs.finish_install("state", InstallOutcome.FAILED, account=None)
    await stores.installs.purge_expired(10_000, 100)

    assert ([], [grant], [grant]) == (early, due, still)
    assert [] == await stores.installs.held_grants(50, 9)
    assert await stores.installs.install("state") is None


async def test_grant_of_an_ended_install_is_not_held_again(stores: Stores) -> None:
    """Its copy in the spool may come late; the grant has been rotated since, and must not come back."""
    await stores.installs.begin_install(install())
    grant = PendingGrant(install(), "access", "refresh", "Bearer", "public", 1.0, 2.0, 50.0)
    await stores.installs.hold_grant(grant)
    await stores.accounts.connect(account(), expected=None, next_at=None, grant="state", events=[])

    await stores.installs.hold_grant(grant)

    assert [] == await stores.installs.held_grants(50, 9)


async def test_sign_in_is_taken_once_and_in_time(stores: Stores) -> None:
    """A second taker, and one who comes too late, get nothing."""
    login = PendingLogin("challenge", "browser", "install", "{}", 100.0)
    await stores.installs.begin_login(login)
    taken = await asyncio.gather(*[stores.installs.take_login("challenge", 99.0) for _ in range(20)])
    await stores.installs.begin_login(login)

    assert [login] == [one for one in taken if one]
    assert await stores.installs.take_login("challenge", 100.0) is None


async def test_sign_ins_of_one_purpose_are_read_and_ended(stores: Stores) -> None:
    """One or all of them; those of another purpose stay."""
    for hash_, purpose in (("a", "session"), ("b", "session"), ("c", "session"), ("d", "link")):
        await stores.installs.begin_login(PendingLogin(hash_, "", purpose, "{}", 100.0))

    [one] = await stores.installs.logins("session", "b")
    others = [
        await stores.installs.logins("session", "d"),
        await stores.installs.logins("link", "b"),
        await stores.installs.logins("nothing"),
    ]
    ended = [
        await stores.installs.end_logins("session", "b"),
        await stores.installs.end_logins("session", "d"),
        await stores.installs.end_logins("session"),
    ]

    assert ("b", "session", [[], [], []]) == (one.challenge_hash, one.purpose, others)
    assert [1, 0, 2] == ended
    assert ["d"] == [left.challenge_hash for left in await stores.installs.logins("link")]


async def test_callers_have_two_keys_at_most(stores: Stores) -> None:
    """A new key ends the oldest at once, and the other in time."""
    assert await stores.callers.add_caller(caller(), key())
    assert not await stores.callers.add_caller(caller(), key("k9"))
    await stores.callers.add_key(key("k2", at=200.0), expire_others_at=500.0)
    await stores.callers.add_key(key("k3", at=300.0), expire_others_at=600.0)

    [found] = await stores.callers.callers()
    assert [("k2", 600.0), ("k3", None)] == [(one.id, one.expires_at) for one in found.keys]
    assert {"k2", "k3"} == {one.id for one in found.keys}
    assert await stores.callers.by_key("k1") is None
    assert not await stores.callers.add_key(key("k4", "nobody"), expire_others_at=1.0)


async def test_removed_caller_is_gone_with_its_keys(stores: Stores) -> None:
    """At once."""
    await stores.callers.add_caller(caller(), key())

    assert await stores.callers.remove_caller("service")
    assert await stores.callers.by_key("k1") is None
    assert not await stores.callers.remove_caller("service")


async def test_last_use_of_callers_without_a_row(stores: Stores) -> None:
    """Those that the configuration names; the latest counts."""
    await stores.callers.touch_callers({})
    await stores.callers.touch_callers({"a": 7.0, "b": 8.0})
    await stores.callers.touch_callers({"a": 9.0})

    assert {"a": 9.0, "b": 8.0} == await stores.callers.caller_uses()


async def test_key_is_found_with_its_caller(stores: Stores) -> None:
    """And remembers when it was last used."""
    await stores.callers.add_caller(caller(), key())
    await stores.callers.touch_keys({"k1": 77.0})

    found = await stores.callers.by_key("k1")

    assert found is not None
    assert (caller(), 77.0) == (found[0], found[1].last_used_at)


async def test_events_are_numbered_in_order(stores: Stores) -> None:
    """Behind a number, the last ones, of one account; old ones go in small batches."""
    for number in range(1, 6):
        await stores.events.add_events([Event(float(number), EventKind.RENEWED, f"a{number % 2}")])

    assert [3, 4] == [event.id for event in await stores.events.events(2, 2)]
    assert [4, 5] == [event.id for event in await stores.events.last_events(2)]
    assert [1, 3, 5] == [event.id for event in await stores.events.last_events(9, "a1")]
    assert 2 == await stores.events.purge_events(4.0, 2)
    assert [3, 4, 5] == [event.id for event in await stores.events.events(0, 9)]


async def test_first_keys_are_for_an_empty_store(stores: Stores) -> None:
    """Never over a store that holds anything."""
    keys = [
        Master(b"m" * 32).wrap(b"k" * 32, kid=f"{number:016x}", purpose=purpose, created_at=1.0)
        for number, purpose in enumerate(Purpose)
    ]

    assert await stores.keys.is_empty()
    assert await stores.keys.add_first_keys(keys)
    assert not await stores.keys.add_first_keys(keys)
    assert keys == await stores.keys.keys()


async def test_store_with_an_account_is_not_empty(stores: Stores) -> None:
    """Even if its keys were deleted."""
    assert await stores.keys.has_no_accounts()
    await connect(stores)

    assert not await stores.keys.is_empty()
    assert not await stores.keys.has_no_accounts()
    assert not await stores.keys.add_first_keys([])


async def test_store_remembers_that_it_had_an_account(stores: Stores) -> None:
    """Also when it is purged."""
    one = await connect(stores)

    await stores.accounts.purge(one.name, name_hash="h")

    assert not await stores.keys.has_no_accounts()


async def test_identity_is_asked_again_when_it_is_time(stores: Stores) -> None:
    """Earliest first, bounded; and never again once it was given up."""
    for name, at in (("s1", 30.0), ("s2", 10.0), ("s3", 20.0)):
        await stores.installs.begin_install(install(name))
        await stores.installs.hold_grant(PendingGrant(install(name), "a", "r", "Bearer", "", 1.0, 2.0, at))

    await stores.installs.retry_grant("s2", 40.0)
    await stores.installs.retry_grant("s3", None)

    assert ["s1", "s2"] == [one.install.state_hash for one in await stores.installs.held_grants(99, 9)]
    assert ["s1"] == [one.install.state_hash for one in await stores.installs.held_grants(99, 1)]


async def test_what_has_expired_is_purged_in_small_batches(stores: Stores) -> None:
    """Trips, tickets and sign-ins, and nothing that still counts."""
    for number in range(3):
        await stores.installs.begin_install(install(f"old-{number}", expires_at=50.0))
        await stores.installs.add_ticket(replace(ticket(f"old-{number}", None), expires_at=50.0))
        await stores.installs.begin_login(PendingLogin(f"old-{number}", "b", "install", "{}", 50.0))
    await stores.installs.begin_install(install("new"))
    await stores.installs.add_ticket(ticket("new"))

    purged = [await stores.installs.purge_expired(60.0, 2) for _ in range(3)]

    assert [6, 3, 0] == purged
    assert await stores.installs.install("new") is not None
    assert await stores.installs.ticket("new") is not None


async def test_taken_state_stays_taken(stores: Stores) -> None:
    """Its outcome is there for a second visit; a third taker gets nothing either."""
    await stores.installs.begin_install(install())
    await stores.installs.take_install("state", 5.0)
    await stores.installs.finish_install("state", InstallOutcome.REFUSED, account=None)

    found = await stores.installs.install("state")

    assert found is not None
    assert (5.0, InstallOutcome.REFUSED) == (found.taken_at, found.outcome)
    assert not await stores.installs.take_install("state", 7.0)


async def test_ticket_is_spent_by_success_only(stores: Stores) -> None:
    """Who was refused may try again with the same link."""
    await stores.installs.add_ticket(ticket())
    await stores.installs.begin_install(install(ticket_hash="t"))

    await stores.installs.finish_install("state", InstallOutcome.REFUSED, account=None)

    assert ticket() == await stores.installs.ticket("t")


async def test_kept_key_ends_no_later_than_it_would_have(stores: Stores) -> None:
    """A new key never lengthens the old one's life."""
    await stores.callers.add_caller(caller(), replace(key(), expires_at=150.0))

    await stores.callers.add_key(key("k2", at=120.0), expire_others_at=500.0)

    [found] = await stores.callers.callers()
    assert [("k1", 150.0), ("k2", None)] == [(one.id, one.expires_at) for one in found.keys]


async def test_what_the_store_says_of_itself_is_replaced(stores: Stores) -> None:
    """The last word counts; of what was never said there is none."""
    await stores.keys.set_meta("a", "1")
    await stores.keys.set_meta("a", "2")

    assert ("2", None) == (await stores.keys.meta("a"), await stores.keys.meta("b"))


async def test_claim_is_had_once_until_it_is_purged(stores: Stores) -> None:
    """Fifty at once, and again later: one gets it. What has ended is forgotten, no matter how much there is."""
    won = await asyncio.gather(*[stores.installs.claim("c", 100.0) for _ in range(50)])
    others = [await stores.installs.claim(f"c{number}", 50.0) for number in range(5)]

    purged = [await stores.installs.purge_expired(60.0, 2) for _ in range(4)]

    assert (1, [True] * 5) == (won.count(True), others)
    assert [2, 2, 1, 0] == purged
    assert (False, True) == (
        await stores.installs.claim("c", 100.0),
        await stores.installs.claim("c1", 100.0),
    )


async def test_install_that_a_browser_kept_is_stored_once(stores: Stores) -> None:
    """Whoever comes with the same state again finds it taken."""
    kept = replace(install(), taken_at=5.0)

    stored = await asyncio.gather(*[stores.installs.claim_install(kept) for _ in range(20)])

    assert 1 == stored.count(True)
    assert kept == await stores.installs.install("state")
    assert not await stores.installs.take_install("state", 6.0)


async def test_one_link_does_not_fill_the_store(stores: Stores) -> None:
    """However often it is opened: the newest stay, and those that came back."""
    for number in range(40):
        one = replace(install(f"s{number:02}", ticket_hash="t"), created_at=100.0 + number)
        await stores.installs.begin_install(one)
        if number == 0:
            await stores.installs.take_install("s00", 200.0)

    kept = [number for number in range(40) if await stores.installs.install(f"s{number:02}")]

    assert [0, *range(8, 40)] == kept


async def test_grant_that_waits_is_shown_as_waiting(stores: Stores) -> None:
    """A reload of the callback says that it goes on, not that the link was used."""
    await stores.installs.begin_install(install())
    await stores.installs.hold_grant(PendingGrant(install(), "a", "r", "Bearer", "", 1.0, 2.0, 50.0))

    shown = await stores.installs.install("state")

    assert shown is not None
    assert InstallOutcome.IDENTITY_PENDING is shown.outcome
