"""What is remembered of a key: for less than a second, looked up beside, once for everybody."""

import asyncio

import pytest

from broker.callers.authentication import KeyAuthenticator
from broker.errors import Unauthenticated
from broker.model import CallerKey, CallerRecord, Secret
from broker.store.callers import CallerStore
from tests.house import House


class SlowStore(CallerStore):
    """The real one; it counts, and keeps an answer back until it is let go."""

    asked = 0
    slow = False
    let_go: asyncio.Event

    async def by_key(self, key_id: str) -> tuple[CallerRecord, CallerKey] | None:
        self.asked += 1
        let_go = self.let_go = asyncio.Event()
        found = await super().by_key(key_id)
        if self.slow:
            await let_go.wait()
        return found


@pytest.fixture(name="store")
def _store(house: House) -> SlowStore:
    return SlowStore(house.broker.context.stores.database)


@pytest.fixture(name="keys")
def _keys(house: House, store: SlowStore) -> KeyAuthenticator:
    return KeyAuthenticator(store=store, clock=house.clock)


async def test_crowd_with_one_key_costs_one_lookup(
    house: House, store: SlowStore, keys: KeyAuthenticator
) -> None:
    """And everybody gets the same caller, also where some hang up."""
    crowd = [asyncio.create_task(keys.authenticate(Secret(house.key))) for _ in range(64)]
    await asyncio.sleep(0)
    crowd[0].cancel()

    callers = await asyncio.gather(*crowd[1:])

    assert (1, {"service"}) == (store.asked, {caller and caller.name for caller in callers})


async def test_key_in_use_is_looked_up_beside(house: House, store: SlowStore, keys: KeyAuthenticator) -> None:
    """Nobody waits for it, and it is one lookup however many ask meanwhile."""
    await keys.authenticate(Secret(house.key))
    store.slow = True
    house.clock.advance(0.7)

    meanwhile = [keys.remembered(house.key) for _ in range(10)]
    await house.clock.settle()
    store.let_go.set()
    await house.clock.settle()
    house.clock.advance(0.5)
    later = keys.remembered(house.key)

    assert None not in [*meanwhile, later]
    assert 2 == store.asked


async def test_revoked_key_is_out_as_soon_as_it_was_looked_up(
    house: House, store: SlowStore, keys: KeyAuthenticator
) -> None:
    """Before what was remembered is over."""
    await keys.authenticate(Secret(house.key))
    await store.remove_caller("service")
    house.clock.advance(0.7)

    last = keys.remembered(house.key)
    await house.clock.settle()

    assert (True, None) == (last is not None, keys.remembered(house.key))
    with pytest.raises(Unauthenticated):
        await keys.authenticate(Secret(house.key))


async def test_lookup_from_before_a_change_counts_for_nobody_after_it(
    house: House, store: SlowStore, keys: KeyAuthenticator
) -> None:
    """Whoever comes after the change is not told what was read before it, and nothing of it is remembered."""
    store.slow = True
    before = asyncio.create_task(keys.authenticate(Secret(house.key)))
    await house.clock.settle()
    held = store.let_go
    store.slow = False
    await store.remove_caller("service")
    keys.forget()

    with pytest.raises(Unauthenticated):
        await keys.authenticate(Secret(house.key))
    held.set()
    caller = await before

    assert ("service", None) == (caller and caller.name, keys.remembered(house.key))


async def test_second_is_counted_from_the_question(
    house: House, store: SlowStore, keys: KeyAuthenticator
) -> None:
    """A slow store lengthens nobody's life: the key may have been revoked right after it was read."""
    store.slow = True
    slow = asyncio.create_task(keys.authenticate(Secret(house.key)))
    await house.clock.settle()
    house.clock.advance(0.8)
    store.let_go.set()
    await slow

    young = keys.remembered(house.key)
    house.clock.advance(0.2)

    assert (True, None) == (young is not None, keys.remembered(house.key))
