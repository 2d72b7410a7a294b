"""The client: sends prepared requests over many connections and notes how long each answer took."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

NextRequest = Callable[[], bytes]
SETTLED_AFTER = 0.05
LATE = 5.0
"""Seconds for the last answers to come, once nothing more is sent."""


@dataclass(slots=True)
class Load:
    """What came of one run."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != 200)

    def percentile(self, share: float) -> float:
        """Milliseconds within which that share of the answers came."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Connection(asyncio.Protocol):
    """One keep-alive connection; calls back with the status of every answer."""

    def __init__(self, answered: Callable[["_Connection", int], None]) -> None:
        self._answered = answered
        self._received = b""
        self.transport: asyncio.Transport | None = None
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's are no subclasses of asyncio's

    def send(self, request: bytes, at: float) -> None:
        self.sent_at = at
        if self.transport is None or self.transport.is_closing():
            raise ConnectionError("the server hung up")
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        at = received.find(b"Content-Length: ", 0, end)
        length = int(received[at + 16 : received.index(b"\r", at)]) if at >= 0 else 0
        if len(received) >= end + 4 + length:
            self._received = b""
            self._answered(self, int(received[9:12]))


def get(path: str, *headers: str) -> bytes:
    """A request as bytes."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def in_turn(requests: Iterator[bytes]) -> NextRequest:
    return lambda: next(requests)


async def closed_loop(port: int, connections: int, seconds: float, request: NextRequest) -> Load:
    """Each connection asks again as soon as it is answered."""
    load, clock = Load(), time.perf_counter
    idle = asyncio.Event()
    ends_at, under_way = clock() + seconds, connections

    def answered(connection: _Connection, status: int) -> None:
        nonlocal under_way
        now = clock()
        load.latencies.append(now - connection.sent_at)
        load.statuses[status] = load.statuses.get(status, 0) + 1
        if now < ends_at:
            connection.send(request(), now)
            return
        under_way -= 1
        if not under_way:
            idle.set()

    opened = await _connect(port, connections, answered)
    began = clock()
    ends_at = began + seconds
    for connection in opened:
        connection.send(request(), clock())
    async with asyncio.timeout(seconds + LATE * 4):
        await idle.wait()
    load.seconds = clock() - began
    _close(opened)
    return load


async def each_once(port: int, connections: int, requests: list[bytes]) -> Load:
    """Every request once, so many at a time."""
    load, clock, waiting = Load(), time.perf_counter, iter(requests)
    idle, under_way = asyncio.Event(), 0

    def go_on(connection: _Connection) -> None:
        nonlocal under_way
        request = next(waiting, None)
        if request is not None:
            under_way += 1
            connection.send(request, clock())
        elif not under_way:
            idle.set()

    def answered(connection: _Connection, status: int) -> None:
        nonlocal under_way
        load.latencies.append(clock() - connection.sent_at)
        load.statuses[status] = load.statuses.get(status, 0) + 1
        under_way -= 1
        go_on(connection)

    opened = await _connect(port, connections, answered)
    began = clock()
    for connection in opened:
        go_on(connection)
    async with asyncio.timeout(600):
        await idle.wait()
    load.seconds = clock() - began
    _close(opened)
    return load


async def open_loop(port: int, rate: float, seconds: float, request: NextRequest) -> Load:
    """Requests at fixed moments, whether or not earlier ones are answered: waiting counts from the moment."""
    load, clock = Load(), time.perf_counter
    free: list[_Connection] = []

    def answered(connection: _Connection, status: int) -> None:
        load.latencies.append(clock() - connection.sent_at)
        load.statuses[status] = load.statuses.get(status, 0) + 1
        free.append(connection)

    opened = await _connect(port, 256, answered)
    free += opened
    began, sent, total = clock(), 0, int(rate * seconds)
    while sent < total and clock() < began + seconds + LATE:
        while sent < total and free and clock() >= began + sent / rate:
            free.pop().send(request(), began + sent / rate)
            sent += 1
        await asyncio.sleep(0.0002)
    while len(free) < len(opened) and clock() < began + seconds + LATE:
        await asyncio.sleep(0.001)
    load.seconds = clock() - began
    _close(opened)
    return load


async def _connect(
    port: int, connections: int, answered: Callable[[_Connection, int], None]
) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(connections):
        _, protocol = await loop.create_connection(lambda: _Connection(answered), "127.0.0.1", port)
        opened.append(protocol)
    # The kernel has taken them; the server shall have, too, before anything is measured.
    await asyncio.sleep(SETTLED_AFTER)
    return opened


def _close(connections: list[_Connection]) -> None:
    for connection in connections:
        if connection.transport is not None:
            connection.transport.close()


def spread(values: list[float]) -> tuple[float, float, float]:
    """Least, median, most."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return ordered[0], median, ordered[-1]
