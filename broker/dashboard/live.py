"""Tells open pages that something has changed; they fetch themselves again, so that nothing is drawn twice."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.clock import Clock, within
from broker.errors import Overloaded, StorageUnavailable
from broker.store.events import EventStore
from broker.web import event_stream

LOOK_EVERY = 1.0
TICK_EVERY = 15
"""Looks between two signs of life; times such as “in 3 min” are drawn anew with each."""
MOST_OPEN = 100


class Live:
    """Server-sent events for the dashboard's script."""

    def __init__(self, *, events: EventStore, clock: Clock) -> None:
        self._events, self._clock = events, clock
        self._open = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End every stream."""
        self._stopping.set()

    async def follow(self, request: web.Request, still: Callable[[], Awaitable[bool]]) -> web.StreamResponse:
        """One browser's stream, until it goes, is signed out (no longer `still` there) or the broker stops."""
        if request.method == "HEAD":
            return web.Response(content_type="text/event-stream")
        if self._open >= MOST_OPEN:
            raise Overloaded
        response = event_stream()
        await response.prepare(request)
        self._open += 1
        try:
            await self._tell(response, still)
        finally:
            self._open -= 1
        return response

    async def _tell(self, response: web.StreamResponse, still: Callable[[], Awaitable[bool]]) -> None:
        await response.write(b": open\nretry: 2000\n\n")
        newest, looks = await self._newest(0), 0
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while not await within(self._clock, LOOK_EVERY, stopping):
                looks += 1
                if looks % TICK_EVERY == 0 and not await still():
                    return
                seen = await self._newest(newest)
                if seen != newest or looks % TICK_EVERY == 0:
                    newest = seen
                    await response.write(f"event: changed\ndata: {newest}\n\n".encode())
        finally:
            stopping.cancel()

    async def _newest(self, before: int) -> int:
        try:
            last = await self._events.last_events(1)
        except StorageUnavailable:
            return before
        return last[-1].id if last else 0
