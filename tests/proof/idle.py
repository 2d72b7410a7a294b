"""Connections that ask once and then say nothing, and how each of them ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_ONCE = 100
"""Opened together; more would wait for the listener's backlog."""
ANSWERED_WITHIN = 120.0


class Idle(asyncio.Protocol):
    """One of them."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """The status line."""
        self.ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        """What was wrong with its end, if anything was."""
        self.asked_at = self.ended_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.asked_at = time.monotonic()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
        length = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
        if found and len(body) >= length and not self.answered.done():
            self._received = b""
            self.answered.set_result(head.partition(b"\r\n")[0])

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_at = time.monotonic()
        self.ended.set_result(exc)
        if not self.answered.done():
            self.answered.set_result(b"")

    @property
    def age(self) -> float:
        """Seconds from its question to its end."""
        return self.ended_at - self.asked_at

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def idling(port: int, count: int, request: bytes) -> AsyncIterator[list[Idle]]:
    """So many connections, each of which has been answered."""
    loop, opened = asyncio.get_running_loop(), list[Idle]()
    try:
        async with asyncio.timeout(ANSWERED_WITHIN):
            while len(opened) < count:
                batch = [
                    loop.create_connection(lambda: Idle(request), "127.0.0.1", port)
                    for _ in range(min(AT_ONCE, count - len(opened)))
                ]
                opened += [protocol for _, protocol in await asyncio.gather(*batch)]
                await asyncio.gather(*(one.answered for one in opened[-len(batch) :]))
        yield opened
    finally:
        for one in opened:
            one.close()
        await asyncio.gather(*(one.ended for one in opened))
