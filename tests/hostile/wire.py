"""Bytes to a listener and what comes back, read as a suspicious client reads it."""

import asyncio
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Address = int | Path
"""A port of this machine, or a Unix socket."""
PATIENCE = 60.0
"""Seconds of this machine after which a broker that neither answers nor hangs up counts as stuck."""


@dataclass(frozen=True, slots=True)
class Raw:
    """One connection: what is sent, and the statuses of which each answer must be one."""

    name: str
    data: bytes
    allowed: frozenset[int] | None = None
    """None: anything below 500."""
    answers: int | None = None
    """How many answers there are; None: does not matter."""
    half_close: bool = False
    """Nothing more will be sent, and the server is told so."""


async def connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection("127.0.0.1", address)


async def talk(address: Address, data: bytes, *, half_close: bool = False) -> bytes:
    """Return everything that is answered until the server hangs up, which it must do.

    The request is sent before the server, in this process, has accepted the connection. If the loop is then busy
    for longer than a connection may idle, the server still reads it: a loop sees to sockets before timers.
    """
    loop, received = asyncio.get_running_loop(), bytearray()
    with socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET) as connection:
        connection.setblocking(False)
        await loop.sock_connect(
            connection, str(address) if isinstance(address, Path) else ("127.0.0.1", address)
        )
        sent = connection.send(data) if data else 0
        if half_close and sent == len(data):
            connection.shutdown(socket.SHUT_WR)
        sending = asyncio.create_task(_send(connection, data[sent:], half_close=half_close))
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                while piece := await loop.sock_recv(connection, 65536):
                    received += piece
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return bytes(received)


async def _send(connection: socket.socket, rest: bytes, *, half_close: bool) -> None:
    """Send what the kernel did not take at once; the server may hang up over it."""
    if rest:
        await asyncio.get_running_loop().sock_sendall(connection, rest)
        if half_close:
            connection.shutdown(socket.SHUT_WR)


async def talk_all(address: Address, requests: list[Raw], *, at_once: int = 24) -> list[bytes]:
    """The answers to each, so many connections at a time."""
    places = asyncio.Semaphore(at_once)

    async def one(request: Raw) -> bytes:
        async with places:
            return await talk(address, request.data, half_close=request.half_close)

    return await asyncio.gather(*(one(request) for request in requests))


def statuses(received: bytes) -> list[int]:
    """The status of every answer, by each one's own length; what is no answer at all counts as 999."""
    found: list[int] = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        line = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
        if line is None:
            return [*found, 999]
        found.append(int(line[1]))
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        received = rest[int(length[1]) :] if length else b"" if found[-1] >= 200 else rest
        if found[-1] == 100:
            found.pop()
    return found


def complaint(request: Raw, received: bytes, secrets: list[bytes]) -> str | None:
    """What is wrong with these answers, if anything is."""
    got = statuses(received)
    crashed = [status for status in got if status >= 500 and status != 503]
    strange = [status for status in got if request.allowed is not None and status not in request.allowed]
    if crashed or strange:
        return f"{request.name}: answered {got}"
    if request.answers is not None and len(got) != request.answers:
        return f"{request.name}: {len(got)} answers, not {request.answers}: {got}"
    if any(secret in received for secret in secrets):
        return f"{request.name}: a secret came back"
    if re.search(rb"aiohttp|Python/|Traceback", received):
        return f"{request.name}: tells what it is made of"
    return None
