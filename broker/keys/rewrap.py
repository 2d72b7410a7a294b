"""Seals anew what was sealed with an older key, a little at a time; can be broken off and resumed anywhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from broker.clock import Clock
from broker.errors import InvalidRequest
from broker.keyring import KeyNotActive, Keyring, SealBroken, kid_of
from broker.store.keys import SEALED, RecordStore, SealedColumn, SealedRecord

PAGE = 200
LOOKED_AT = 1000
"""Records that one step looks at, at least."""
BATCH = 32
"""Records in one transaction: some milliseconds for which a renewal waits."""
PAUSE = 0.02
"""Seconds between two batches, for everybody else's writes."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Step:
    """How far a step came."""

    looked_at: int = 0
    resealed: int = 0
    unreadable: tuple[str, ...] = ()
    """Where records lie that do not open."""
    cursor: str | None = None
    """Where to go on; None at the end."""


class Rewrapper:
    """Walks all columns, row by row, and replaces what has not changed since it was read."""

    def __init__(self, *, records: RecordStore, keyring: Keyring, clock: Clock, pause: float = PAUSE) -> None:
        self._records, self._keyring, self._clock, self._pause = records, keyring, clock, pause

    async def step(self, cursor: str | None) -> Step:
        """Go on from `cursor`, from the start without; raises InvalidRequest, StorageUnavailable."""
        number, after = _parse(cursor)
        step = Step()
        while number < len(SEALED):
            page = await self._records.page(SEALED[number], after, PAGE)
            try:
                step = await self._reseal(SEALED[number], page, step)
            except KeyNotActive:
                # Another key was made active meanwhile; the ring knows it by now.
                return replace(step, cursor=_cursor(number, after))
            number, after = (number, page[-1].key) if len(page) == PAGE else (number + 1, "")
            if step.looked_at >= LOOKED_AT:
                break
        return replace(step, cursor=None if number == len(SEALED) else _cursor(number, after))

    async def _reseal(self, column: SealedColumn, page: Sequence[SealedRecord], step: Step) -> Step:
        resealed: list[tuple[SealedRecord, str]] = []
        unreadable = list(step.unreadable)
        changed = 0
        for record in page:
            try:
                if kid_of(record.record) != self._keyring.active:
                    resealed.append((record, self._keyring.reseal(record.place, record.record)))
            except SealBroken as exc:
                unreadable.append(f"{column.name} of {record.key}")
                log.error("record.does_not_open", column=column.name, row=record.key, why=str(exc))
        for batch in _batches(resealed):
            changed += await self._records.replace(column, batch)
            await self._clock.sleep(self._pause if len(resealed) > BATCH else 0)
        return Step(step.looked_at + len(page), step.resealed + changed, tuple(unreadable))


def _batches(
    resealed: Sequence[tuple[SealedRecord, str]],
) -> Iterator[Sequence[tuple[SealedRecord, str]]]:
    for start in range(0, len(resealed), BATCH):
        yield resealed[start : start + BATCH]


def _cursor(number: int, after: str) -> str:
    return f"{SEALED[number].name}:{after}"


def _parse(cursor: str | None) -> tuple[int, str]:
    if cursor is None:
        return 0, ""
    name, _, after = cursor.partition(":")
    for number, column in enumerate(SEALED):
        if column.name == name:
            return number, after
    raise InvalidRequest("cursor is what an earlier answer gave")
