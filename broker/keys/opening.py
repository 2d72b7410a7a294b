"""Opens the ring at start: makes the first keys of an empty store, and wraps them anew under a new master."""

from collections.abc import Sequence

import structlog

from broker.clock import Clock
from broker.config.settings import MasterKey
from broker.errors import StartRefused
from broker.keyring import Keyring, Master, Purpose, WrappedKey, WrongMaster, new_key, new_kid
from broker.keys.masters import read_master
from broker.keys.ring import LivingRing, unwrapped
from broker.store.keys import KeyStore

log = structlog.get_logger()


async def open_ring(
    store: KeyStore, source: MasterKey, clock: Clock, *, previous: MasterKey | None = None
) -> LivingRing:
    """The ring of this store's keys; raises StartRefused with a sentence that says which key is wrong.

    A missing master key file is created for an empty store, and never over one that holds anything. Keys that
    `previous` wrapped are wrapped anew.
    """
    empty = await store.is_empty()
    master = await read_master(source, key="keys.master", may_create=empty)
    if empty:
        await store.add_first_keys([_first(master, purpose, clock.now()) for purpose in Purpose])
    keys = await store.keys()
    masters = (master, *await _previous(previous, master, keys))
    opened = _opened(masters, keys)
    await _wrap_anew(store, master, keys, opened)
    return LivingRing(store=store, masters=masters, keyring=_ring(keys, opened), clock=clock)


def _first(master: Master, purpose: Purpose, at: float) -> WrappedKey:
    return master.wrap(new_key(), kid=new_kid(), purpose=purpose, created_at=at)


async def _previous(
    source: MasterKey | None, master: Master, keys: Sequence[WrappedKey]
) -> tuple[Master, ...]:
    if source is None:
        return ()
    try:
        return (await read_master(source, key="keys.previous"),)
    except StartRefused as exc:
        if any(key.master_id != master.id for key in keys if key.wrapped):
            raise
        # The replacement is over; who has already put the old key away is not kept from starting.
        log.warning("keys.previous_not_needed", why=str(exc))
        return ()


def _opened(masters: Sequence[Master], keys: Sequence[WrappedKey]) -> dict[str, bytes]:
    """The keys themselves; raises StartRefused where one that is in use does not open."""
    opened = {}
    for key in keys:
        try:
            if key.wrapped:
                opened[key.kid] = unwrapped(masters, key)
        except WrongMaster as exc:
            if key.retired_at is None:
                raise StartRefused(f"{exc}; put the right one back, the store is untouched") from None
            log.warning("key.retired_does_not_open", kid=key.kid, why=str(exc))
    return opened


async def _wrap_anew(
    store: KeyStore, master: Master, keys: Sequence[WrappedKey], opened: dict[str, bytes]
) -> None:
    old = [key for key in keys if key.kid in opened and key.master_id != master.id]
    if old:
        await store.rewrap_keys(old, [master.wrap_again(key, opened[key.kid]) for key in old])
        log.warning("keys.wrapped_anew", master=master.id, keys=[key.kid for key in old])


def _ring(keys: Sequence[WrappedKey], opened: dict[str, bytes]) -> Keyring:
    usable = [key for key in keys if key.kid in opened]
    active = [key.kid for key in usable if key.purpose is Purpose.DATA and key.active]
    index = [key.kid for key in usable if key.purpose is Purpose.INDEX]
    if not active or not index:
        raise StartRefused("the store holds records but no keys; restore it from a backup")
    data = {key.kid: opened[key.kid] for key in usable if key.purpose is Purpose.DATA}
    return Keyring(active=active[-1], keys=data, index_key=opened[index[0]])
