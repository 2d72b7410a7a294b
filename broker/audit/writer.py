"""The thread that writes the audit: it alone may block on the sink, and it continues the chain."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from broker.audit.lines import Chain, Head, KeyOf, Times, continued_body, start_body
from broker.audit.sinks import AuditSink
from broker.clock import Clock

T = TypeVar("T")
CLOSE_WITHIN = 5.0


class Writer:
    """Does jobs one after another. Its thread is a daemon: a disk that hangs must not keep the process from ending."""

    def __init__(self, *, sink: AuditSink, key_of: KeyOf, replica: str, clock: Clock) -> None:
        self._sink, self._chain, self._replica, self._clock = sink, Chain(key_of), replica, clock
        self._times = Times()
        self._stored: Head | None = None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="audit", daemon=True)

    @property
    def head(self) -> Head:
        """The last line that was written."""
        return self._chain.head

    async def open(self, stored: Head | None) -> None:
        """Start the thread and make the sink ready; raises StartRefused.

        `stored` is the head that an earlier start left in the store.
        """

        def open_sink() -> None:
            with suppress(OSError):
                self._sink.open()

        self._stored = stored
        self._thread.start()
        await self.run(open_sink)

    async def close(self) -> None:
        """Close the sink and end the thread once its jobs are done, or leave it where it hangs."""
        self.put(self._sink.close, lambda _, __: None)
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_WITHIN)

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
        """Do `work` in the thread, between two writes, and return what it returns."""
        future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error else future.set_result(result)

        self.put(work, done)
        return await future  # type: ignore[return-value]  # None only where T is None

    def write(self, bodies: Sequence[str]) -> tuple[int, OSError | None]:
        """Write bodies as lines; how many are written, and why the others are not. A job of the thread."""
        at = self._clock.now()
        try:
            begins_file = self._sink.begins_file(at)
            first: list[str] = []
            if self.head.n < 0:
                # The heads before: of the sink, and of the store where that knows of more or of another chain.
                last, stored = self._sink.last(), self._stored
                if last and stored and last.chain == stored.chain and last.n >= stored.n:
                    stored = None
                follows = [head for head in (last, stored) if head is not None]
                first = [start_body(self._times.text(at), self._replica, follows)]
            elif begins_file:
                first = [continued_body(self._times.text(at), self.head.mac)]
        except OSError as exc:
            return 0, exc
        lines = self._chain.lines([*first, *bodies])
        count, error = self._sink.write(lines)
        self._chain.advance(lines[:count])
        return max(0, count - len(first)), error

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
