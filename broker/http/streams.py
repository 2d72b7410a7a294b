"""Answers with server-sent events: limits the number of streams and ends them for slow readers and at a stop."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.clock import Clock, within
from broker.errors import BrokerError, Overloaded

SLOW = 10.0
"""Seconds after which a reader that takes no message is disconnected. It can resume with `Last-Event-ID`."""


class EventStream:
    """One open stream of server-sent events."""

    def __init__(self, request: web.Request, clock: Clock) -> None:
        self.request, self._clock = request, clock
        # nginx must not buffer the stream (X-Accel-Buffering), and no proxy may compress it (no-transform).
        self.response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store, no-transform",
                "X-Accel-Buffering": "no",
            }
        )
        self.written_at = clock.monotonic()

    @property
    def is_open(self) -> bool:
        """True if the client is still connected."""
        return self.request.transport is not None and not self.request.transport.is_closing()

    async def write(self, text: str) -> None:
        """Write a text to the stream; raises ConnectionError if the client does not read it in time."""
        self.written_at = self._clock.monotonic()
        writing = asyncio.ensure_future(self.response.write(text.encode()))
        try:
            if await within(self._clock, SLOW, writing):
                await writing
                return
        finally:
            writing.cancel()
        if self.request.transport is not None:
            self.request.transport.abort()
        raise ConnectionError("the reader is too slow")


Tell = Callable[[EventStream], Awaitable[bool]]
"""Writes new messages to the stream, and returns False to end it."""


class EventStreams:
    """The open streams of one route."""

    def __init__(self, clock: Clock, *, every: float, most: int, most_of_one: int) -> None:
        self._clock, self._every = clock, every
        self._most, self._most_of_one = most, most_of_one
        self._open: Counter[str] = Counter()
        """The number of open streams by reader, so that no single reader takes all of them."""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End every stream, because the broker stops."""
        self._stopping.set()

    async def follow(
        self, request: web.Request, reader: str, begin: Callable[[], Awaitable[tuple[str, Tell]]]
    ) -> web.StreamResponse:
        """Answer with a stream until the client disconnects, `Tell` returns False, or the broker stops.

        `begin` returns the first message and the function that writes the others. Its errors are answered.
        """
        if request.method == "HEAD":
            return web.Response(content_type="text/event-stream")
        if self._open.total() >= self._most:
            raise Overloaded
        if self._open[reader] >= self._most_of_one:
            raise Overloaded(f"one caller may have {self._most_of_one} streams of events; close one of them")
        # Counted before anything is awaited, because many may come at the same time.
        self._open[reader] += 1
        stream, stopped = EventStream(request, self._clock), asyncio.ensure_future(self._stopping.wait())
        try:
            first, tell = await begin()
            await stream.response.prepare(request)
            await stream.write(f": open\nretry: 2000\n{first}")
            while stream.is_open and not stopped.done() and await tell(stream):
                await within(self._clock, self._every, stopped)
        except (ConnectionError, BrokerError):
            if not stream.response.prepared:
                raise
            # The answer has begun, so it can only be ended.
        finally:
            stopped.cancel()
            self._open[reader] -= 1
            if not self._open[reader]:
                del self._open[reader]
        return stream.response
