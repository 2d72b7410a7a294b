"""When accounts were last handed out, and to whom: noted in memory, stored together a little later."""

from broker.errors import StorageUnavailable
from broker.store.renewals import RefreshStore


class Uses:
    """What has yet to be stored."""

    def __init__(self, store: RefreshStore) -> None:
        self._store = store
        self._accounts: dict[str, tuple[float, float]] = {}
        self._callers: dict[tuple[str, str], float] = {}

    def note(self, name: str, caller: str, now: float, opens: float) -> None:
        """A token was handed out, whose window opens then."""
        self._accounts[name] = (now, max(now, opens))
        self._callers[name, caller] = now

    async def flush(self) -> None:
        """Store all of it; what cannot be stored just now is kept for the next time."""
        accounts, self._accounts = self._accounts, {}
        callers, self._callers = self._callers, {}
        try:
            await self._store.touch(accounts, callers)
        except StorageUnavailable:
            self._accounts, self._callers = accounts | self._accounts, callers | self._callers

    def forget(self, name: str) -> None:
        """Of an account that was purged."""
        self._accounts.pop(name, None)
        self._callers = {key: at for key, at in self._callers.items() if key[0] != name}
