"""Accounts whose seal was opened, held in memory: the most recently used, dropped when their row changes."""

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from broker.errors import StorageUnavailable
from broker.model import Account, Secret, Trouble
from broker.sealing import TokenSeals
from broker.store.interface import RefreshStore

UNTROUBLED = Trouble()


@dataclass(frozen=True, slots=True)
class OpenedAccount:
    """An account and its access token in clear."""

    account: Account
    """Its sealed tokens are empty texts where there are any: only the store has the records."""
    access_token: Secret | None
    unchecked: bool = False
    """Other brokers may have renewed it, and the store could not be asked."""


def _alone() -> bool:
    return True


class OpenedAccounts:
    """A bounded memory in front of the store."""

    def __init__(
        self, *, store: RefreshStore, seals: TokenSeals, limit: int, are_heard: Callable[[], bool] = _alone
    ) -> None:
        self._store, self._seals, self._limit = store, seals, limit
        self._are_heard = are_heard
        """Whether changes by other brokers are heard; while not, every request looks at the row."""
        self._held: OrderedDict[str, OpenedAccount] = OrderedDict()
        self._reading: dict[str, int] = {}
        """Reads under way, and whether the row changed meanwhile (then what was read may be old)."""

    async def get(self, name: str) -> OpenedAccount | None:
        """The account; None where there is none, or it was removed. Raises SealBroken, StorageUnavailable."""
        held = self._held.get(name)
        if held is None:
            return await self._read(name)
        self._held.move_to_end(name)
        return held if self._are_heard() else await self._checked(held)

    def at_hand(self, name: str) -> OpenedAccount | None:
        """The account, where nothing has to be read for it."""
        held = self._held.get(name)
        if held is None or not self._are_heard():
            return None
        self._held.move_to_end(name)
        return held

    def forget_all(self) -> None:
        """Any row may have changed."""
        for name in [*self._held]:
            self.forget(name)
        for name in self._reading:
            self._reading[name] += 1

    async def _checked(self, held: OpenedAccount) -> OpenedAccount | None:
        try:
            return await self._read(held.account.name)
        except StorageUnavailable:
            return replace(held, unchecked=True)

    def forget(self, name: str) -> None:
        """The row of this name has changed."""
        self._held.pop(name, None)
        if name in self._reading:
            self._reading[name] += 1

    async def _read(self, name: str) -> OpenedAccount | None:
        seen = self._reading.setdefault(name, 0)
        account = await self._store.get(name)
        unchanged = self._reading.get(name) == seen
        if unchanged:
            self._reading.pop(name, None)
        if account is None or account.removed_at is not None:
            return None
        opened = OpenedAccount(_lean(account), self._seals.access_token(account))
        if unchanged:
            self._held[name] = opened
            if len(self._held) > self._limit:
                self._held.popitem(last=False)
        return opened


def _lean(account: Account) -> Account:
    """The account without what it need not have for itself: two thirds of what a row takes in memory."""
    return replace(
        account,
        provider=sys.intern(account.provider),
        client_id=sys.intern(account.client_id),
        token_type=sys.intern(account.token_type),
        scope=sys.intern(account.scope),
        sealed_access=None if account.sealed_access is None else "",
        sealed_refresh=None if account.sealed_refresh is None else "",
        trouble=UNTROUBLED if account.trouble == UNTROUBLED else account.trouble,
    )
