"""Counts encrypted records by their key, and re-encrypts those of older keys in small batches."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from broker.clock import Clock
from broker.encryption.keyring import DecryptionFailed, KeyNotActive, Keyring, kid_at_front, kid_of
from broker.errors import InvalidRequest
from broker.store.keys import ENCRYPTED, UNKNOWN, EncryptedColumn, EncryptedRecord, RecordStore

PAGE = 200
LOOKED_AT = 1000
"""The least number of records that one step examines."""
BATCH = 32
"""Records in one transaction, for which a renewal waits some milliseconds."""
PAUSE = 0.02
"""Seconds between two batches, in which others can write."""

log = structlog.get_logger()
ByKey = Mapping[str, Mapping[str, int]]
"""The number of records by key id, and then by their place."""
Elsewhere = Callable[[], Mapping[str, Iterable[str]]]
"""Records outside the store, by their place; a file that cannot be read is an empty record."""


class Census:
    """The number of records that are encrypted with each key."""

    def __init__(self, *, records: RecordStore, elsewhere: Elsewhere, keyring: Keyring) -> None:
        self._records, self._elsewhere, self._keyring = records, elsewhere, keyring

    async def take(self) -> ByKey:
        """Count all records; raises StorageUnavailable."""
        places = dict(await self._records.counts())
        for where, records in self._elsewhere().items():
            places[where] = Counter(kid_at_front(record) or UNKNOWN for record in records)
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for where, counts in places.items():
            for kid, count in counts.items():
                found[kid][where] = count
        return found

    async def totals(self) -> Mapping[str, int]:
        """Return the totals by key id, including keys without records; raises StorageUnavailable."""
        totals = {kid: sum(places.values()) for kid, places in (await self.take()).items()}
        return dict.fromkeys(self._keyring.kids, 0) | totals


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one step of re-encryption."""

    looked_at: int = 0
    reencrypted: int = 0
    unreadable: tuple[str, ...] = ()
    """The places of records that cannot be decrypted."""
    cursor: str | None = None
    """The place from which to continue; None at the end."""


class Rewrapper:
    """Re-encrypts the records of all columns, unless a row has changed since it was read."""

    def __init__(self, *, records: RecordStore, keyring: Keyring, clock: Clock, pause: float = PAUSE) -> None:
        self._records, self._keyring, self._clock, self._pause = records, keyring, clock, pause

    async def step(self, cursor: str | None) -> Step:
        """Continue from `cursor`, or begin if it is None; raises InvalidRequest, StorageUnavailable."""
        number, after = 0, ""
        if cursor is not None:
            name, _, after = cursor.partition(":")
            names = [column.name for column in ENCRYPTED]
            if name not in names:
                raise InvalidRequest("cursor is not from an earlier answer")
            number = names.index(name)
        step = Step()
        while number < len(ENCRYPTED):
            page = await self._records.page(ENCRYPTED[number], after, PAGE)
            try:
                step = await self._reencrypt(ENCRYPTED[number], page, step)
            except KeyNotActive:
                # Another key was made active in the meantime; the keyring has it by now.
                break
            number, after = (number, page[-1].key) if len(page) == PAGE else (number + 1, "")
            if step.looked_at >= LOOKED_AT:
                break
        is_end = number == len(ENCRYPTED)
        return replace(step, cursor=None if is_end else f"{ENCRYPTED[number].name}:{after}")

    async def _reencrypt(self, column: EncryptedColumn, page: Sequence[EncryptedRecord], step: Step) -> Step:
        reencrypted: list[tuple[EncryptedRecord, str]] = []
        unreadable = list(step.unreadable)
        changed = 0
        for record in page:
            try:
                if kid_of(record.record) != self._keyring.active:
                    reencrypted.append((record, self._keyring.reencrypt(record.place, record.record)))
            except DecryptionFailed as exc:
                unreadable.append(f"{column.name} of {record.key}")
                log.error("record.decryption_failed", column=column.name, row=record.key, why=str(exc))
        for start in range(0, len(reencrypted), BATCH):
            batch = reencrypted[start : start + BATCH]
            changed += await self._records.replace(column, batch)
            await self._clock.sleep(self._pause if len(reencrypted) > BATCH else 0)
        return Step(step.looked_at + len(page), step.reencrypted + changed, tuple(unreadable))
