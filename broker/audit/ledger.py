"""Chain and sink together, and the one thread that may block on them."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from broker.audit.chain import Chain, Head
from broker.audit.record import Times, continued_body, start_body
from broker.audit.sinks import AuditSink
from broker.clock import Clock

T = TypeVar("T")
CLOSE_WITHIN = 5.0


class Ledger:
    """Writes bodies as lines of the chain; used by the writer thread alone."""

    def __init__(self, *, sink: AuditSink, chain: Chain, replica: str, clock: Clock) -> None:
        self._sink, self._chain, self._replica, self._clock = sink, chain, replica, clock
        self._times = Times()
        self._stored: Head | None = None

    @property
    def head(self) -> Head:
        """The last line that was written."""
        return self._chain.head

    def open(self, stored: Head | None) -> None:
        """Make the sink ready. `stored` is the head that an earlier start left in the store."""
        self._stored = stored
        with suppress(OSError):
            self._sink.open()

    def write(self, bodies: Sequence[str]) -> tuple[int, OSError | None]:
        """How many bodies are out as lines, and why the others are not."""
        try:
            first = self._first_lines()
        except OSError as exc:
            return 0, exc
        lines = self._chain.lines([*first, *bodies])
        count, error = self._sink.write(lines)
        self._chain.advance(lines[:count])
        return max(0, count - len(first)), error

    def close(self) -> None:
        self._sink.close()

    def _first_lines(self) -> list[str]:
        """What has to come before anything else: the start of the chain, or of a file."""
        at = self._clock.now()
        begins_file = self._sink.begins_file(at)
        if self.head.n < 0:
            return [start_body(self._times.text(at), self._replica, self._follows(self._sink.last()))]
        return [continued_body(self._times.text(at), self.head.mac)] if begins_file else []

    def _follows(self, found: Head | None) -> list[Head]:
        """The heads before: of the sink, and of the store where that knows of more or of another chain."""
        stored = self._stored
        if found is not None and stored is not None and found.chain == stored.chain and found.n >= stored.n:
            stored = None
        return [head for head in (found, stored) if head is not None]


class WriterThread:
    """Does jobs one after another. A daemon: a disk that hangs must not keep the process from ending."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="audit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Do `work` in the thread, then call `done` with its result or error in the running loop."""
        loop = asyncio.get_running_loop()

        def job() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as exc:  # noqa: BLE001 - it is raised where it was asked for
                error = exc
            # A loop that is closed has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done, result, error)

        self._jobs.put(job)

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` in the thread and return what it returns."""
        future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error else future.set_result(result)

        self.put(work, done)
        return await future  # type: ignore[return-value]  # None only where T is None

    async def close(self) -> None:
        """End the thread once its jobs are done, or leave it where it hangs."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_WITHIN)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
