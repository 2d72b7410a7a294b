"""`Audit`: a record is written before what it allows happens; what cannot be written waits in memory for a while."""

import asyncio
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from broker.audit.chain import Head
from broker.audit.ledger import CLOSE_WITHIN, Ledger, WriterThread
from broker.audit.record import AuditRecord, Stakes, Times, record_body, stop_body
from broker.clock import Clock
from broker.errors import AuditUnavailable
from broker.model import Incident
from broker.observe.health import Health

log = structlog.get_logger()
MOST_WAITING = 10_000
LONGEST_WAIT = 60.0
BATCH = 1_000
STALLED_AFTER = 2
"""Looks, a second apart, at one write that does not end: then it counts as failed; it may still succeed.

Looks and not the clock: after a suspension the clock has moved on, and the write has had no time yet.
"""
PROBLEM = Incident.AUDIT_WAITING


@dataclass(slots=True, eq=False)
class _Entry:
    """A record on its way to the sink."""

    body: str
    stakes: Stakes
    done: "asyncio.Future[None] | None"
    """Whoever waits for it; None once it waits in memory."""
    since: float = 0.0
    """When it began to wait in memory, monotonic."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What cannot be written just now."""

    records: int
    seconds: float
    """Since the oldest of them waits."""


class Audit:
    """Writes records in order; those that come while a write is under way share the next one."""

    def __init__(self, *, ledger: Ledger, clock: Clock, health: Health) -> None:
        self._ledger, self._clock, self._health = ledger, clock, health
        self._thread = WriterThread()
        self._times = Times()
        self._pending: deque[_Entry] = deque()
        self._writing: list[_Entry] | None = None
        self._looks = 0
        self._scheduled = False
        self._failing = False
        self._idle = asyncio.Event()
        self._begun = False

    async def begin(self, stored: Head | None) -> None:
        """Start the chain; `stored` is the head that an earlier start left. Raises StartRefused.

        Where the sink cannot be written just now, the chain starts when it can.
        """
        self._thread.start()
        self._begun = True
        await self._thread.run(lambda: self._ledger.open(stored))
        self._hand_over()
        await self._idle.wait()

    @property
    def head(self) -> Head:
        """The last line that was written."""
        return self._ledger.head

    @property
    def thread(self) -> WriterThread:
        """Where the sink may be touched between two writes."""
        return self._thread

    def record(self, record: AuditRecord, stakes: Stakes = Stakes.READ) -> Awaitable[None]:
        """Done once the record is written, or waits where it may; raises AuditUnavailable, and then what it allows
        must not happen."""
        return self.put(record_body(record, self.now()), stakes)

    def now(self) -> str:
        """The moment, as lines tell it."""
        return self._times.text(self._clock.now())

    def put(self, body: str, stakes: Stakes) -> Awaitable[None]:
        """The same for a line that is made already."""
        # No coroutines: every hot token comes by here, and each would be resumed once more.
        if self._failing:
            self._wait_or_refuse(_Entry(body, stakes, None, self._clock.monotonic()))
            return _at_once()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._pending.append(_Entry(body, stakes, done))
        if self._writing is None and not self._scheduled:
            # At the end of this turn, so that all of a turn share a write.
            self._scheduled = True
            loop.call_soon(self._hand_over)
        return done

    def look_after(self) -> None:
        """Once a second: try again what failed, and give up on a write that hangs."""
        if self._writing is not None:
            self._looks += 1
            if self._looks >= STALLED_AFTER:
                self._fail(TimeoutError("the write does not end"))
        elif self._failing:
            self._hand_over()

    async def close(self) -> None:
        """Write what waits, once more if need be, and end the chain."""
        if not self._begun:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await self._idle.wait()
                self._pending.append(
                    _Entry(stop_body(self._times.text(self._clock.now())), Stakes.DONE, None)
                )
                await self._write_out()
        if self._waiting:
            log.error("audit.records_lost", records=self._waiting)
        self._thread.put(self._ledger.close, lambda _, __: None)
        await self._thread.close()

    async def _write_out(self) -> None:
        """Write until nothing is left, or no more goes in."""
        while left := self._waiting:
            self._hand_over()
            await self._idle.wait()
            if self._writing is None and self._waiting >= left:
                return

    def _hand_over(self) -> None:
        """Give what is pending to the thread."""
        self._scheduled = False
        if self._writing is not None:
            return
        batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
        self._writing, self._looks = batch, 0
        self._idle.clear()
        bodies = [entry.body for entry in batch]
        self._thread.put(lambda: self._ledger.write(bodies), self._written)

    def _written(self, result: tuple[int, OSError | None] | None, crash: BaseException | None) -> None:
        batch, self._writing = self._writing or [], None
        self._idle.set()
        count, error = result or (0, OSError(f"{type(crash).__name__}"))
        if crash is not None:
            log.error("audit.crashed", exc_info=crash)
        for entry in batch[:count]:
            _resolve(entry)
        if error is not None:
            self._pending.extendleft(reversed(batch[count:]))
            self._fail(error)
        elif self._pending:
            self._hand_over()
        elif self._failing:
            self._failing = False
            self._health.clear(PROBLEM)
            log.info("audit.recovered")

    def _fail(self, error: OSError) -> None:
        """From here on records wait: readers go on, changes are refused, what has happened stays."""
        if not self._failing:
            self._failing = True
            log.error("audit.failed", error=error.strerror or str(error))
        now = self._clock.monotonic()
        pending, self._pending = self._pending, deque()
        for entry in self._writing or ():
            self._release(entry, now)
        for entry in pending:
            if self._release(entry, now):
                self._pending.append(entry)
        self._health.raise_problem(
            PROBLEM,
            f"the audit cannot be written ({error.strerror or error}); {self._waiting} records wait in memory,"
            f" changes are refused; tokens go on for {LONGEST_WAIT:.0f} s or {MOST_WAITING} records",
        )

    def _release(self, entry: _Entry, now: float) -> bool:
        """Let go whoever waits for the entry; False where it was refused and must not be written."""
        waiter, entry.done = entry.done, None
        if waiter is None:
            return True
        entry.since = now
        if entry.stakes is Stakes.CHANGE or len(self._pending) >= MOST_WAITING:
            if not waiter.done():
                waiter.set_exception(_unavailable())
                # Whoever asked may have hung up.
                waiter.exception()
            return False
        if not waiter.done():
            waiter.set_result(None)
        return True

    def _wait_or_refuse(self, entry: _Entry) -> None:
        if entry.stakes is Stakes.CHANGE:
            raise _unavailable()
        if entry.stakes is Stakes.READ and self._is_full(entry.since):
            raise _unavailable()
        self._pending.append(entry)

    def _is_full(self, now: float) -> bool:
        oldest = self._oldest()
        too_old = oldest is not None and now - oldest.since >= LONGEST_WAIT
        return too_old or self._waiting >= MOST_WAITING

    @property
    def is_writing(self) -> bool:
        """Whether the thread is at a write, which takes as long as the disk does."""
        return self._writing is not None

    @property
    def backlog(self) -> Backlog | None:
        """None while all is written."""
        if not self._failing:
            return None
        oldest = self._oldest()
        waited = 0.0 if oldest is None else max(0.0, self._clock.monotonic() - oldest.since)
        return Backlog(self._waiting, waited)

    def _oldest(self) -> _Entry | None:
        return self._writing[0] if self._writing else self._pending[0] if self._pending else None

    @property
    def _waiting(self) -> int:
        return len(self._pending) + len(self._writing or ())


async def _at_once() -> None:
    """Nothing is waited for."""


def _resolve(entry: _Entry) -> None:
    if entry.done is not None and not entry.done.done():
        entry.done.set_result(None)


def _unavailable() -> AuditUnavailable:
    return AuditUnavailable("the audit cannot be written just now, so this was not done", retry_after=1)
