"""Events, hooks and deliveries, on any store."""

import asyncio

from broker.model import Event, EventKind
from broker.store import Stores

RENEWED = frozenset({EventKind.RENEWED})


def event(account: str | None = "acme", kind: EventKind = EventKind.CONNECTED, at: float = 1.0) -> Event:
    return Event(at, kind, account, "kit", "reason", 3)


async def ids(stores: Stores) -> list[int]:
    return [one.event.id for one in await stores.alerts.deliveries("webhook")]


async def test_event_comes_back_as_it_was(stores: Stores) -> None:
    """Every field."""
    told = Event(5.0, EventKind.REAUTHORIZATION_DUE, "acme", "kit", "grant_ages", 7, 1, "user-42", 99.0)

    await stores.events.add_events([told])

    assert [told] == await stores.events.events(0, 9)


async def test_ids_go_on_behind_what_was_purged(stores: Stores) -> None:
    """The newest event may be gone; its number is not given again."""
    await stores.events.add_events([event(), event(), event()])
    await stores.events.purge_events(2.0, 99)

    await stores.events.add_events([event()])

    assert [4] == [one.id for one in await stores.events.events(0, 9)]
    assert (4, 3) == await stores.events.event_bounds()


async def test_ids_of_a_crowd_are_all_different(stores: Stores) -> None:
    """And without a hole."""
    await asyncio.gather(*(stores.events.add_events([event(), event()]) for _ in range(50)))

    assert list(range(1, 101)) == [one.id for one in await stores.events.events(0, 200)]


async def test_hook_begins_where_the_events_are(stores: Stores) -> None:
    """And stays where it is, however often it is opened."""
    await stores.events.add_events([event(), event()])
    first = await stores.alerts.open_hook("webhook", "here")
    await stores.events.add_events([event()])

    again = await stores.alerts.open_hook("webhook", "here")

    assert (2, 2) == (first[0], again[0])


async def test_pause_is_lifted_by_another_target_only(stores: Stores) -> None:
    """Opening the same one again does not."""
    await stores.alerts.open_hook("webhook", "here")
    await stores.alerts.pause_hook("webhook", 5.0)

    same = await stores.alerts.open_hook("webhook", "here")
    other = await stores.alerts.open_hook("webhook", "there")

    assert (5.0, None) == (same[1], other[1])


async def test_events_become_deliveries_once(stores: Stores) -> None:
    """Two processes that spread the same events leave each of them once; what is not told is passed over."""
    await stores.alerts.open_hook("webhook", "here")
    await stores.events.add_events([event(), event(kind=EventKind.RENEWED), event("other")])

    moved = await asyncio.gather(
        *(stores.alerts.spread("webhook", upto=0, without=RENEWED, limit=99, at=1.0) for _ in range(5))
    )

    assert {3} == set(moved)
    assert [1, 3] == await ids(stores)


async def test_spread_takes_a_page(stores: Stores) -> None:
    """And says how far it came."""
    await stores.alerts.open_hook("webhook", "here")
    await stores.events.add_events([event()] * 5)

    first = await stores.alerts.spread("webhook", upto=0, without=RENEWED, limit=2, at=1.0)
    second = await stores.alerts.spread("webhook", upto=first, without=RENEWED, limit=9, at=1.0)

    assert (2, 5) == (first, second)


async def test_attempt_is_claimed_by_one(stores: Stores) -> None:
    """Of many at once; the next attempt may be claimed again."""
    await stores.alerts.open_hook("webhook", "here")
    await stores.events.add_events([event()])
    await stores.alerts.spread("webhook", upto=0, without=RENEWED, limit=9, at=1.0)
    [delivery] = await stores.alerts.deliveries("webhook")

    claims = await asyncio.gather(*(stores.alerts.claim("webhook", delivery, 61.0) for _ in range(9)))
    [claimed] = await stores.alerts.deliveries("webhook")

    assert 1 == claims.count(True)
    assert (1, 61.0) == (claimed.attempts, claimed.next_at)
    assert await stores.alerts.claim("webhook", claimed, 70.0)


async def test_forgotten_hook_leaves_nothing(stores: Stores) -> None:
    """Another hook keeps its own."""
    for hook in ("webhook", "command"):
        await stores.alerts.open_hook(hook, "here")
    await stores.events.add_events([event()])
    for hook in ("webhook", "command"):
        await stores.alerts.spread(hook, upto=0, without=RENEWED, limit=9, at=1.0)

    await stores.alerts.forget_hook("webhook")

    assert [] == await ids(stores)
    assert 1 == len(await stores.alerts.deliveries("command"))


async def test_standing_trouble_and_its_event_are_one(stores: Stores) -> None:
    """Noted once for each replica, and called over once."""
    trouble = Event(1.0, EventKind.BROKER_DEGRADED, None, "kit", "mass_refusal")
    over = Event(2.0, EventKind.BROKER_RECOVERED, None, "kit", "mass_refusal")

    noted = [
        await stores.alerts.note_standing("a", trouble, stands=True),
        await stores.alerts.note_standing("a", trouble, stands=True),
        await stores.alerts.note_standing("b", trouble, stands=True),
        await stores.alerts.note_standing("a", over, stands=False),
        await stores.alerts.note_standing("a", over, stands=False),
    ]

    assert [True, False, True, True, False] == noted
    assert 3 == len(await stores.events.events(0, 9))
    assert (set(), {("mass_refusal", "kit")}) == (
        await stores.alerts.standing("a"),
        await stores.alerts.standing("b"),
    )


async def test_end_is_foretold_once_for_each_threshold(stores: Stores) -> None:
    """Until that end is past and forgotten."""
    ends = [(100.0, 30), (100.0, 7), (200.0, 30)]
    due = [(Event(1.0, EventKind.REAUTHORIZATION_DUE, "acme", "kit", due_at=at), days) for at, days in ends]

    told = [await stores.alerts.foretell(*one) for one in (*due, *due)]
    await stores.alerts.forget_foretold(150.0)
    again = [await stores.alerts.foretell(*one) for one in due]

    assert [True] * 3 + [False] * 3 == told
    assert [True, True, False] == again
