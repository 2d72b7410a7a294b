"""Accounts whose seal was opened, held in memory: the most recently used, dropped when their row changes."""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import islice

import structlog

from broker.encryption.keyring import DecryptionFailed
from broker.encryption.tokens import TokenEncryption
from broker.errors import StorageUnavailable
from broker.model import Account
from broker.store.renewals import RefreshStore
from broker.tokens.packing import Glimpse, OpenedAccount, Packed, glimpse, lean, pack, unpack

log = structlog.get_logger()
RECENT = 2_048
"""So many are held as objects; older ones are packed, or a full garbage collection would take a second."""
UNPACKED = 16
"""Of so many glimpses of what is packed, one unpacks it: whoever is asked for often is soon among the recent."""
AT_ONCE = 256
"""The last part in so many of what is held goes at once, because to find the first costs more than to drop it."""


def _alone() -> bool:
    return True


def _ignore(_: Collection[str]) -> None:
    pass


@dataclass(slots=True)
class _Reading:
    """Of one row, by all who have asked for it since it last changed."""

    under_way: int = 0
    opened: OpenedAccount | None = None
    """By the first of them."""


class OpenedAccounts:
    """A bounded memory in front of the store."""

    def __init__(
        self,
        *,
        store: RefreshStore,
        encryption: TokenEncryption,
        limit: int,
        recent: int = RECENT,
        are_heard: Callable[[], bool] = _alone,
        set_back: Callable[[Collection[str]], None] = _ignore,
    ) -> None:
        self._store, self._encryption, self._limit = store, encryption, limit
        self._most_recent = min(recent, limit)
        self._are_heard = are_heard
        """Whether changes by other brokers are heard; while not, every request looks at the row."""
        self._report_set_back = set_back
        """Receives the names of all accounts whose rows are older than what was in memory before an outage."""
        self._set_back: set[str] = set()
        self._before: dict[str, tuple[int, int]] = {}
        """Epoch and generation of recent accounts when the memory was last dropped, until the row is read again."""
        self._recent: OrderedDict[str, OpenedAccount] = OrderedDict()
        self._older: dict[str, Packed] = {}
        """In the order in which they were last used, as `_recent`."""
        self._glimpses = 0
        self._reading: dict[str, _Reading] = {}
        """Left alone as soon as the row changes: what it brings may be old."""

    async def get(self, name: str) -> OpenedAccount | None:
        """The account; None where there is none, or it was removed. Raises StorageUnavailable."""
        held = self._held(name)
        if held is None:
            return await self._read(name)
        return held if self._are_heard() else await self._checked(held)

    def at_hand(self, name: str) -> OpenedAccount | Glimpse | None:
        """The account, where nothing has to be read for it; of one that lies packed, mostly a glimpse."""
        if not self._are_heard():
            return None
        if name in self._older:
            self._glimpses += 1
            if self._glimpses % UNPACKED:
                packed = self._older[name] = self._older.pop(name)
                return glimpse(name, packed)
        return self._held(name)

    def forget(self, name: str) -> None:
        """The row of this name has changed."""
        self._recent.pop(name, None)
        self._older.pop(name, None)
        self._reading.pop(name, None)

    def forget_all(self) -> None:
        """Any row may have changed."""
        recent = {name: (held.account.epoch, held.account.generation) for name, held in self._recent.items()}
        self._before = {**recent, **{name: self._before[name] for name in self._set_back}}
        self._recent.clear()
        self._older.clear()
        self._reading.clear()

    def _held(self, name: str) -> OpenedAccount | None:
        held = self._recent.get(name)
        if held is not None:
            self._recent.move_to_end(name)
        elif (packed := self._older.pop(name, None)) is not None:
            held = unpack(name, packed)
            self._hold(name, held)
        return held

    def _hold(self, name: str, opened: OpenedAccount) -> None:
        """As the one that was used last."""
        self._recent[name] = opened
        if len(self._recent) > self._most_recent:
            last, older = self._recent.popitem(last=False)
            if (packed := pack(older)) is not None:
                self._older[last] = packed
        if len(self._recent) + len(self._older) > self._limit:
            for last in [*islice(self._older, 1 + self._limit // AT_ONCE)]:
                del self._older[last]

    async def _checked(self, held: OpenedAccount) -> OpenedAccount | None:
        account = held.account
        self._before.setdefault(account.name, (account.epoch, account.generation))
        try:
            return await self._read(account.name)
        except StorageUnavailable:
            return replace(held, unchecked=True)

    async def _read(self, name: str) -> OpenedAccount | None:
        reading = self._reading.setdefault(name, _Reading())
        reading.under_way += 1
        try:
            account = await self._store.get(name)
        finally:
            reading.under_way -= 1
            unchanged = self._reading.get(name) is reading
            if unchanged and not reading.under_way:
                del self._reading[name]
        if unchanged and name in self._before:
            self._compare(name, account)
        if account is None or account.removed_at is not None:
            return None
        if unchanged and reading.opened is not None and self._are_heard():
            return reading.opened
        try:
            token = self._encryption.access_token(account)
        except DecryptionFailed as exc:
            # As if there were none: a renewal brings another, or finds that nothing can be decrypted.
            log.error("record.does_not_open", account=name, why=str(exc))
            account, token = replace(account, sealed_access=None), None
        opened = OpenedAccount(lean(account), token, self._encryption.fingerprint(token))
        if unchanged:
            reading.opened = opened
            self._hold(name, opened)
        return opened

    def _compare(self, name: str, account: Account | None) -> None:
        """Compare a row with what was in memory: a failover can forget the last commits of the old server."""
        epoch, generation = self._before[name]
        if account is not None and account.epoch == epoch and account.generation < generation:
            if name not in self._set_back:
                log.error("store.set_back", account=name, store=account.generation, seen=generation)
                self._set_back.add(name)
                self._report_set_back(self._set_back)
            return
        del self._before[name]
        if name in self._set_back:
            self._set_back.remove(name)
            self._report_set_back(self._set_back)
