"""The audit: a record is written before the action that it allows; a record that cannot be written waits in memory."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

import structlog

from broker.audit.lines import (
    AuditRecord,
    Chain,
    Head,
    KeyOf,
    Stakes,
    Times,
    continued_body,
    expired_body,
    record_body,
    start_body,
    stop_body,
)
from broker.audit.sinks import AuditFile, AuditSink, FileSink, last_head, old_files
from broker.clock import Clock
from broker.errors import AuditUnavailable, StorageUnavailable
from broker.model import Incident
from broker.observe.health import Health
from broker.store.keys import KeyStore

T = TypeVar("T")
log = structlog.get_logger()
CLOSE_WITHIN = 5.0
MOST_WAITING = 10_000
LONGEST_WAIT = 60.0
BATCH = 1_000
LOOK_EVERY = 1.0
STALLED_AFTER = 2
"""Checks, a second apart, after which one write counts as failed, although it may still succeed.

Checks are counted and not seconds, because after a suspension the clock has advanced, but the write has had no time.
"""
STORE_EVERY = 15.0
DELETE_EVERY = 3600.0
PROBLEM = Incident.AUDIT_WAITING
META = "audit_head"


@dataclass(slots=True, eq=False)
class _Entry:
    """A record that is not written yet."""

    body: str
    stakes: Stakes
    done: "asyncio.Future[None] | None"
    """The future that the caller awaits; None once the record waits in memory."""
    since: float = 0.0
    """The time when it began to wait in memory, monotonic."""

    def resolve(self) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(None)


class Audit:
    """The audit of one broker, from its start to its end.

    Records are written in order; records that arrive during a write share the next one. Failed writes are retried once
    a second. The head of the chain is stored regularly, and old files are deleted.

    Only one thread uses the sink, which may block. It is a daemon thread, so that a disk that hangs does not keep the
    process from ending.
    """

    def __init__(
        self,
        *,
        sink: AuditSink,
        key_of: KeyOf,
        store: KeyStore,
        replica: str,
        clock: Clock,
        health: Health,
        keep: float,
    ) -> None:
        self._sink, self._chain, self._replica = sink, Chain(key_of), replica
        self._files = sink if isinstance(sink, FileSink) else None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="audit", daemon=True)
        self._store, self._clock, self._health, self._keep = store, clock, health, keep
        self._meta = f"{META} {replica}"
        self._stored: Head | None = None
        self.settled_head: Head | None = None
        """The head at the last but one storing; its line has reached every place that lines are read from."""
        self._times = Times()
        self._pending: deque[_Entry] = deque()
        self._writing: list[_Entry] | None = None
        self._looks = 0
        self._scheduled = False
        self._failing = False
        self._idle = asyncio.Event()
        self._upkeep: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Start a chain that continues after the head of an earlier start; raises StartRefused.

        If the sink cannot be written at the moment, the chain starts later.
        """
        self._stored = self.settled_head = await self.stored_head()
        self._thread.start()
        with suppress(OSError):
            await self.in_thread(self._sink.open)
        self._hand_over()
        await self._idle.wait()
        await self._store_head()
        self._upkeep = asyncio.create_task(self._keep_up(), name="audit upkeep")

    async def close(self) -> None:
        """Write the waiting records, end the chain, and store its head."""
        if self._upkeep is None:
            return
        self._upkeep.cancel()
        await asyncio.gather(self._upkeep, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await self._idle.wait()
                self._pending.append(_Entry(stop_body(self.now()), Stakes.DONE, None))
                # Write until nothing is left, or nothing more can be written.
                while left := self._waiting:
                    self._hand_over()
                    await self._idle.wait()
                    if self._writing is None and self._waiting >= left:
                        break
        if self._waiting:
            log.error("audit.records_lost", records=self._waiting)
        self._jobs.put(self._sink.close)
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_WITHIN)
        await self._store_head()

    def record(self, record: AuditRecord, stakes: Stakes = Stakes.READ) -> Awaitable[None]:
        """Write a record; the result completes once it is written, or waits in memory if `stakes` allow that.

        Raises AuditUnavailable, and then the action that the record allows must not happen.
        """
        return self.put(record_body(record, self.now()), stakes)

    def now(self) -> str:
        """Return the current time in the format of the lines."""
        return self._times.text(self._clock.now())

    def put(self, body: str, stakes: Stakes) -> Awaitable[None]:
        """Write a line from its body; completes and raises as `record` does."""
        # No coroutine, because every cached token passes here and would have to resume it.
        if self._failing:
            now, oldest = self._clock.monotonic(), self._oldest()
            too_old = oldest is not None and now - oldest.since >= LONGEST_WAIT
            is_full = too_old or self._waiting >= MOST_WAITING
            if stakes is Stakes.CHANGE or (stakes is Stakes.READ and is_full):
                raise _unavailable()
            self._pending.append(_Entry(body, stakes, None, now))
            return _nothing()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._pending.append(_Entry(body, stakes, done))
        if self._writing is None and not self._scheduled:
            # At the end of this turn of the loop, so that all records of a turn share a write.
            self._scheduled = True
            loop.call_soon(self._hand_over)
        return done

    @property
    def is_writing(self) -> bool:
        """True if the thread is writing."""
        return self._writing is not None

    @property
    def backlog(self) -> tuple[int, float] | None:
        """The number of waiting records and the age of the oldest in seconds; None if writing works."""
        if not self._failing:
            return None
        oldest = self._oldest()
        waited = 0.0 if oldest is None else max(0.0, self._clock.monotonic() - oldest.since)
        return self._waiting, waited

    @property
    def head(self) -> Head:
        """The last line that was written."""
        return self._chain.head

    async def snapshot(self) -> tuple[list[AuditFile], Head]:
        """Return the files as they are between two writes, and the head at that time."""
        files = self._files
        return await self.in_thread(lambda: ([] if files is None else files.snapshot(), self.head))

    async def stored_head(self) -> Head | None:
        """Return the head in the store; if lines up to it are missing, they were removed."""
        text = await self._store.meta(self._meta)
        if text is None:
            return None
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            members = json.loads(text)
            return Head(str(members["chain"]), int(members["n"]), str(members["mac"]))
        # Only the check for missing lines at the end is lost, until the next head is stored.
        log.error("audit.head_damaged", meta=self._meta)
        return None

    def in_thread(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Do `work` in the thread, between two writes; the future has its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(finish: Callable[[], None]) -> None:
            if not future.done():
                finish()

        def job() -> None:
            try:
                finish = partial(future.set_result, work())
            except BaseException as exc:  # noqa: BLE001 - it is raised where it was asked for
                finish = partial(future.set_exception, exc)
            # If the loop is closed, nobody waits any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, finish)

        self._jobs.put(job)
        return future

    def look_after(self) -> None:
        """Retry failed writes, and give up on a write that hangs; called once a second."""
        if self._writing is not None:
            self._looks += 1
            if self._looks >= STALLED_AFTER:
                self._fail(TimeoutError("the write does not end"))
        elif self._failing:
            self._hand_over()

    def _hand_over(self) -> None:
        """Let the thread write the pending records."""
        self._scheduled = False
        if self._writing is not None:
            return
        batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
        self._writing, self._looks = batch, 0
        self._idle.clear()
        bodies = [entry.body for entry in batch]
        self.in_thread(lambda: self._write(bodies)).add_done_callback(self._written)

    def _write(self, bodies: list[str]) -> tuple[int, OSError | None]:
        """Write bodies as lines, in the thread; return how many are written, and the error of the others."""
        now, first = self._clock.now(), list[str]()
        try:
            begins_file = self._sink.begins_file(now)
            if self.head.n < 0:
                # The chain follows the last head of the sink, and that of the store if it is newer or of another chain.
                last, stored = self._sink.last(), self._stored
                if last and stored and last.chain == stored.chain and last.n >= stored.n:
                    stored = None
                first = [
                    start_body(Times().text(now), self._replica, [head for head in (last, stored) if head])
                ]
            elif begins_file:
                first = [continued_body(Times().text(now), self.head.mac)]
        except OSError as exc:
            return 0, exc
        lines = self._chain.lines([*first, *bodies])
        count, error = self._sink.write(lines)
        self._chain.advance(lines[:count])
        return max(0, count - len(first)), error

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with suppress(Exception):
                job()

    def _written(self, written: "asyncio.Future[tuple[int, OSError | None]]") -> None:
        batch, self._writing = self._writing or [], None
        self._idle.set()
        crash = written.exception()
        if crash is not None:
            log.error("audit.crashed", exc_info=crash)
        count, error = written.result() if crash is None else (0, OSError(type(crash).__name__))
        for entry in batch[:count]:
            entry.resolve()
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
        """From now on let records wait in memory and refuse changes."""
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
        """Answer the entry's caller; return False if it was refused, so that the record must not be written."""
        if entry.done is None:
            return True
        refused = entry.stakes is Stakes.CHANGE or len(self._pending) >= MOST_WAITING
        if not refused:
            entry.resolve()
        elif not entry.done.done():
            entry.done.set_exception(_unavailable())
            # Marks the error as retrieved, in case the caller has gone.
            entry.done.exception()
        entry.done, entry.since = None, now
        return not refused

    def _oldest(self) -> _Entry | None:
        return self._writing[0] if self._writing else self._pending[0] if self._pending else None

    @property
    def _waiting(self) -> int:
        return len(self._pending) + len(self._writing or ())

    async def _keep_up(self) -> None:
        next_store = next_delete = self._clock.monotonic()
        while True:
            try:
                self.look_after()
                now = self._clock.monotonic()
                if now >= next_store:
                    next_store = now + STORE_EVERY
                    await self._store_head()
                if now >= next_delete:
                    next_delete = now + DELETE_EVERY
                    await self._delete_old()
            except Exception as exc:
                log.error("audit.upkeep_failed", exc_info=exc)
            await self._clock.sleep(LOOK_EVERY)

    async def _store_head(self) -> None:
        head = self.head
        self.settled_head = self._stored
        if head == self._stored or head.n < 0:
            return
        with suppress(StorageUnavailable):
            await self._store.set_meta(self._meta, head.json())
            self._stored = head

    async def _delete_old(self) -> None:
        """Delete files that ended longer ago than `keep`, each after a line that records it."""
        if self._files is None:
            return
        now = self._clock.now()
        for old in await self.in_thread(partial(old_files, self._files.path)):
            if old.ended_by + self._keep > now:
                return
            last = await self.in_thread(partial(last_head, old.path))
            if last is not None:
                try:
                    await self.put(expired_body(Times().text(now), old.path.name, last), Stakes.CHANGE)
                except AuditUnavailable:
                    return
            await self.in_thread(partial(old.path.unlink, missing_ok=True))
            log.info("audit.file_deleted", file=old.path.name)


async def _nothing() -> None:
    """Return immediately."""


def _unavailable() -> AuditUnavailable:
    return AuditUnavailable("the audit cannot be written just now, so this was not done", retry_after=1)
