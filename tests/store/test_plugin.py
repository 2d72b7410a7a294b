"""Consents, connect codes, codes, grants and pairs, on any store."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

from broker.model import (
    ConnectCode,
    Event,
    EventKind,
    PluginCode,
    PluginConsent,
    PluginGrant,
    PluginPair,
    RememberedPerson,
)
from broker.store import Stores
from broker.store.plugin import join_account

CONSENT = PluginConsent("q", "browser", "kit", "https://a/b", True, "state", "read", None, "user-1", 600.0)
CODE = PluginCode("code", "kit", "user-1", "https://a/b", "read", "challenge", 60.0)
PERSON = RememberedPerson("person", "browser", "user-1", "code", 600.0)
GRANT = PluginGrant("g1", "kit", "user-1", "read", 10.0, 10.0, 1000.0, "code")
PAIR = PluginPair("r1", "a1", "g1", "read", 10.0, 100.0, 1000.0)
NEXT = PluginPair("r2", "a2", "g1", "read", 20.0, 110.0, 1010.0)
CONNECTED = Event(10.0, EventKind.PLUGIN_CONNECTED, None, "kit", None, subject="user-1")
ENDED = Event(30.0, EventKind.PLUGIN_DISCONNECTED, None, "kit", "uninstalled", subject="user-1")


async def issue(stores: Stores, number: str = "1", **changes: Any) -> None:
    """A grant with its first pair."""
    code = f"code{number}"
    grant = replace(GRANT, id=f"g{number}", code_hash=code, **changes)
    await stores.plugin.begin_consent(replace(CONSENT, hash=f"q{number}"))
    await stores.plugin.allow(
        f"q{number}",
        replace(CODE, hash=code),
        replace(PERSON, hash=f"person{number}", code_hash=code, browser_hash=f"browser{number}"),
        connect_code=None,
        now=1.0,
    )
    pair = replace(PAIR, refresh_hash=f"r{number}", access_hash=f"a{number}", grant_id=grant.id)
    assert await stores.plugin.redeem(grant, pair, [CONNECTED])


async def test_question_comes_back_as_it_was_and_is_answered_once(stores: Stores) -> None:
    """Every field; fifty answers at once, of which one counts."""
    await stores.plugin.begin_consent(CONSENT)

    seen, late = await stores.plugin.consent("q", 599.0), await stores.plugin.consent("q", 600.0)
    answers = await asyncio.gather(
        *[
            stores.plugin.allow(
                "q",
                replace(CODE, hash=f"c{number}"),
                replace(PERSON, hash=f"p{number}"),
                connect_code=None,
                now=5.0,
            )
            for number in range(50)
        ]
    )

    assert (CONSENT, None) == (seen, late)
    assert 1 == answers.count(True)
    assert not await stores.plugin.deny("q", 5.0)
    assert 1 == sum([await stores.plugin.code(f"c{number}") is not None for number in range(50)])


async def test_code_comes_back_as_it_was_and_is_redeemed_once(stores: Stores) -> None:
    """In time, by one of fifty; what it gave can be found by the code."""
    await issue(stores)
    await stores.plugin.begin_consent(CONSENT)
    await stores.plugin.allow("q", CODE, PERSON, connect_code=None, now=1.0)
    before = await stores.plugin.code("code")

    late = await stores.plugin.redeem(replace(GRANT, id="late", created_at=60.0), PAIR, [])
    many = await asyncio.gather(
        *[
            stores.plugin.redeem(
                replace(GRANT, id=f"x{number}"),
                replace(PAIR, refresh_hash=f"x{number}", access_hash=f"y{number}", grant_id=f"x{number}"),
                [CONNECTED],
            )
            for number in range(50)
        ]
    )

    after = await stores.plugin.code("code")
    assert (CODE, False, 1) == (before, late, many.count(True))
    assert after is not None and after.grant_id is not None
    assert await stores.plugin.grant(after.grant_id) is not None
    events = await stores.events.last_events(9)
    assert [CONNECTED, CONNECTED] == [replace(event, id=0) for event in events]


async def test_connect_code_is_spent_with_the_answer(stores: Stores) -> None:
    """One of two people who type it at once gets a code."""
    assert await stores.plugin.add_connect_code(ConnectCode("ABCD", "digest", "user-2", "app", 600.0))
    assert not await stores.plugin.add_connect_code(ConnectCode("ABCD", "other", "user-3", "app", 600.0))
    for name in ("q1", "q2"):
        await stores.plugin.begin_consent(replace(CONSENT, hash=name, subject=None))
        assert await stores.plugin.try_connect_code(name, "ABCD", "digest", 5.0) is not None

    first = await stores.plugin.allow("q1", CODE, PERSON, connect_code="ABCD", now=5.0)
    second = await stores.plugin.allow(
        "q2", replace(CODE, hash="c2"), replace(PERSON, hash="p2"), connect_code="ABCD", now=5.0
    )

    assert (True, False) == (first, second)
    assert await stores.plugin.code("c2") is None


async def test_fifth_wrong_try_ends_code_and_question(stores: Stores) -> None:
    """Each for itself; an expired code is none."""
    await stores.plugin.add_connect_code(ConnectCode("ABCD", "digest", "user-2", "app", 600.0))
    await stores.plugin.begin_consent(CONSENT)
    await stores.plugin.begin_consent(replace(CONSENT, hash="other"))

    wrong = [await stores.plugin.try_connect_code("q", "ABCD", "no", 5.0) for _ in range(5)]

    assert [None] * 5 == wrong
    assert await stores.plugin.consent("q", 5.0) is None
    assert await stores.plugin.try_connect_code("other", "ABCD", "digest", 5.0) is None
    await stores.plugin.add_connect_code(ConnectCode("EFGH", "digest", "user-2", "app", 600.0))
    assert await stores.plugin.try_connect_code("other", "EFGH", "digest", 600.0) is None


async def test_pair_has_one_successor(stores: Stores) -> None:
    """Of fifty rotations at once one counts, and is found by the old token with its sealed pair."""
    await issue(stores)

    rotated = await asyncio.gather(
        *[
            stores.plugin.rotate(
                "r1", replace(NEXT, refresh_hash=f"n{number}", access_hash=f"m{number}"), f"s{number}"
            )
            for number in range(50)
        ]
    )

    winner = rotated.index(True)
    found = await stores.plugin.by_refresh_token("r1")
    assert 1 == rotated.count(True)
    assert found is not None
    assert (f"n{winner}", f"s{winner}", 20.0, 20.0, None) == (
        found.pair.replaced_by,
        found.pair.sealed_next,
        found.pair.replaced_at,
        found.pair.used_at,
        found.next_used_at,
    )
    assert (20.0, 1010.0) == (found.grant.last_used_at, found.grant.expires_at)
    assert await stores.plugin.by_access_token(f"m{(winner + 1) % 50}") is None


async def test_use_is_noted_once_and_seen_from_the_old_token(stores: Stores) -> None:
    """The first time counts."""
    await issue(stores)
    await stores.plugin.rotate("r1", NEXT, "sealed")

    await stores.plugin.note_use(NEXT, 30.0)
    await stores.plugin.note_use(NEXT, 40.0)

    old, new = await stores.plugin.by_refresh_token("r1"), await stores.plugin.by_access_token("a2")
    assert old is not None and new is not None
    assert (30.0, 30.0, 40.0) == (old.next_used_at, new.pair.used_at, new.grant.last_used_at)


async def test_revoked_grant_gets_nothing_any_more(stores: Stores) -> None:
    """Its tokens are gone, a renewal under way comes too late, and it is told once."""
    await issue(stores)

    ended = [await stores.plugin.revoke("g1", 30.0, [ENDED]) for _ in range(2)]

    assert [True, False] == ended
    assert await stores.plugin.by_access_token("a1") is None
    assert not await stores.plugin.rotate("r1", NEXT, "sealed")
    assert await stores.plugin.by_access_token("a2") is None
    assert [CONNECTED, ENDED] == [replace(event, id=0) for event in await stores.events.last_events(9)]
    assert [] == await stores.plugin.grants(subject=None, now=31.0, after="", limit=9)


async def test_person_is_taken_once_and_in_time(stores: Stores) -> None:
    """Twenty at once; and never after the end."""
    await issue(stores, "1")
    await issue(stores, "2")

    taken = await asyncio.gather(*[stores.plugin.take_person("person1", 5.0) for _ in range(20)])

    assert ["user-1"] == [one for one in taken if one]
    assert await stores.plugin.take_person("person2", 600.0) is None
    assert await stores.plugin.take_person("unknown", 5.0) is None


async def test_account_joins_the_grant_of_its_own_install(stores: Stores) -> None:
    """And ends the older one of the same account, client and person; nobody else's."""
    for number, account in (("1", "kit-1"), ("2", "kit-2"), ("3", None)):
        await issue(stores, number, account=account)
    await issue(stores, "4", account="kit-1", subject="somebody")
    await stores.plugin.take_person("person3", 5.0)

    for browser, subject, account, at in (
        ("browser3", "somebody", "kit-9", 40.0),
        ("browser3", "user-1", "kit-1", 40.0),
        ("browser3", "user-1", "kit-2", 41.0),
        ("browser2", "user-1", "kit-7", 42.0),
    ):
        joined = partial(join_account, browser_hash=browser, subject=subject, account=account, at=at)
        await stores.database.write(joined)

    living = await stores.plugin.grants(subject=None, now=50.0, after="", limit=9)
    assert [("g2", "kit-2"), ("g3", "kit-1"), ("g4", "kit-1")] == [(one.id, one.account) for one in living]
    assert await stores.plugin.by_access_token("a1") is None


async def test_grants_are_listed_page_by_page(stores: Stores) -> None:
    """Living ones, of one person where that is asked."""
    for number in range(5):
        await issue(stores, str(number), subject=f"user-{number % 2}")

    page = await stores.plugin.grants(subject=None, now=50.0, after="", limit=3)
    rest = await stores.plugin.grants(subject=None, now=50.0, after=page[-1].id, limit=3)

    assert ["g0", "g1", "g2", "g3", "g4"] == [grant.id for grant in (*page, *rest)]
    assert 2 == len(await stores.plugin.grants(subject="user-1", now=50.0, after="", limit=9))
    assert [] == await stores.plugin.grants(subject=None, now=1000.0, after="", limit=9)


async def test_old_rows_go_in_small_batches(stores: Stores) -> None:
    """Questions, connect codes and people at their end; a grant when its refresh token has died."""
    for number in range(3):
        await issue(stores, str(number))
        await stores.plugin.begin_consent(replace(CONSENT, hash=f"open{number}"))
    await issue(stores, "living", expires_at=1e9)
    purge = stores.plugin.purge

    assert [2, 1, 0] == [await purge(601.0, 2) for _ in range(3)]
    assert [2, 1, 0] == [await purge(1001.0, 2) for _ in range(3)]
    assert [4, 0] == [await purge(600.0 + 3601.0, 10) for _ in range(2)]
    assert await stores.plugin.by_access_token("a0") is None
    assert await stores.plugin.by_access_token("aliving") is not None


async def test_replaced_pairs_are_kept_for_their_replay(stores: Stores) -> None:
    """The sealed pair for a minute, the row for a month; the living pair as long as it lives."""
    await issue(stores, expires_at=1e9)
    await stores.plugin.rotate("r1", replace(NEXT, refresh_expires_at=1e9), "sealed")
    purge = stores.plugin.purge

    await purge(79.0, 99)
    sealed = await stores.plugin.by_refresh_token("r1")
    await purge(80.0, 99)
    unsealed = await stores.plugin.by_refresh_token("r1")
    await purge(30 * 86400.0 + 111.0, 99)

    assert sealed is not None and unsealed is not None
    assert ("sealed", None) == (sealed.pair.sealed_next, unsealed.pair.sealed_next)
    assert await stores.plugin.by_refresh_token("r1") is None
    assert await stores.plugin.by_access_token("a2") is not None
