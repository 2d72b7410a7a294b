"""The keys of this process: what the store holds now, opened, and the master that wraps the next one."""

from collections.abc import Sequence

import structlog

from broker.clock import Clock
from broker.keyring import Keyring, Master, Purpose, WrappedKey, WrongMaster, new_key, new_kid
from broker.store.keys import KeyStore

log = structlog.get_logger()


class LivingRing:
    """A keyring that learns of new keys, its own and those of other processes."""

    def __init__(self, *, store: KeyStore, masters: Sequence[Master], keyring: Keyring, clock: Clock) -> None:
        self._store, self._masters, self._clock = store, masters, clock
        self.keyring = keyring

    async def catch_up(self) -> None:
        """Take over what the store holds now; raises StorageUnavailable."""
        found: dict[str, bytes] = {}
        active = self.keyring.active
        for key in await self._store.keys():
            if key.purpose is not Purpose.DATA or not key.wrapped:
                continue
            if not self.keyring.holds(key.kid):
                try:
                    found[key.kid] = unwrapped(self._masters, key)
                except WrongMaster as exc:
                    log.error("key.does_not_open", kid=key.kid, why=str(exc))
                    continue
            if key.active:
                active = key.kid
        self.keyring.take(found, active=active)

    async def add_key(self) -> WrappedKey:
        """Make a new data key the active one, for every process on this store."""
        raw = new_key()
        key = self._masters[0].wrap(raw, kid=new_kid(), purpose=Purpose.DATA, created_at=self._clock.now())
        # Durable first: what is sealed with a key that was never stored is lost.
        await self._store.add_key(key)
        self.keyring.take({key.kid: raw}, active=key.kid)
        log.warning("key.added", kid=key.kid)
        return key


def unwrapped(masters: Sequence[Master], key: WrappedKey) -> bytes:
    """The key itself, by whichever master wrapped it; raises WrongMaster, which names all that were tried."""
    for master in masters:
        if master.id == key.master_id:
            return master.unwrap(key)
    if len(masters) == 1:
        return masters[0].unwrap(key)
    raise WrongMaster(
        f"the master keys do not open this store: key {key.kid} was wrapped by master {key.master_id},"
        f" keys.master is {masters[0].id} and keys.previous is {masters[1].id}"
    )
