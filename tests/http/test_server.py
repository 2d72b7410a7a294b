"""The HTTP server: what it does with connections at a stop, before their TLS handshake, and where nobody reads."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from broker.config.values import Tls
from broker.http.edge import Limits, new_application
from broker.http.server import QuietRunner, TlsSite
from broker.http.sockets import usable
from tests.certificates import Authority
from tests.ports import free_port
from tests.until import moment

AUTHORITY = Authority()
PATIENCE = 60.0
ASK = b"GET / HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n"


@pytest.fixture(name="port")
def _port() -> int:
    return free_port()


async def _listening(port: int) -> QuietRunner:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="here")

    application = new_application()
    application.router.add_get("/", answer)
    runner = QuietRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def _accepted(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that the server has taken: a later one was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    later_reader, later = await asyncio.open_connection("127.0.0.1", port)
    later.write(ASK)
    await later_reader.read()
    later.close()
    return reader, writer


async def _asked_during_a_stop(
    runner: QuietRunner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes:
    stopping = asyncio.create_task(runner.cleanup())
    for _ in range(5):
        await asyncio.sleep(0)
    writer.write(ASK)
    answer = await reader.read()
    await stopping
    writer.close()
    return answer


async def test_who_connected_before_a_stop_and_asks_during_it_is_answered(port: int) -> None:
    """systemd hands nobody over who was taken already, so the next process cannot answer them."""
    runner = await _listening(port)
    reader, writer = await _accepted(port)

    answer = await _asked_during_a_stop(runner, reader, writer)

    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_who_never_asks_does_not_hold_up_a_stop(port: int) -> None:
    """Browsers connect in advance."""
    runner = await _listening(port)
    reader, writer = await _accepted(port)

    await runner.cleanup()
    answer = await reader.read()
    writer.close()

    assert b"" == answer


async def test_who_asks_all_the_time_is_told_to_connect_anew(port: int) -> None:
    """The next request on a kept connection is answered, for it may be under way when the stop begins."""
    runner = await _listening(port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ASK.replace(b"close", b"keep-alive"))
    await reader.readuntil(b"here")

    answer = await _asked_during_a_stop(runner, reader, writer)

    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_who_has_asked_before_is_closed(port: int) -> None:
    """A kept connection between two requests is closed, as HTTP allows; the client connects anew."""
    runner = await _listening(port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ASK.replace(b"close", b"keep-alive"))
    first = await reader.readuntil(b"here")

    await runner.cleanup()
    rest = await reader.read()
    writer.close()

    assert (True, b"") == (first.startswith(b"HTTP/1.1 200"), rest)


@asynccontextmanager
async def _with_tls(port: int, folder: Path, limits: Limits) -> AsyncIterator[QuietRunner]:
    AUTHORITY.issue(folder / "cert.pem", folder / "key.pem")
    runner = QuietRunner(_saying("here", limits))
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", port))
    context = usable(Tls(folder / "cert.pem", folder / "key.pem"), key="server.public_tls")
    await TlsSite(runner, listening, context).start()
    try:
        yield runner
    finally:
        await runner.cleanup()


def _saying(text: str, limits: Limits) -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text)

    application = new_application(limits=limits)
    application.router.add_get("/", answer)
    return application


async def _asked_over_tls(port: int, source: str = "127.0.0.1") -> bytes:
    """The answer; nothing where the connection is refused."""
    context = ssl.create_default_context(cadata=AUTHORITY.pem)
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(source, 0))
        writer.write(ASK)
        answer = await reader.read()
        writer.close()
        return answer
    return b""


async def _ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server hangs up."""
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            await reader.read()
    return True


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x16",
        b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + bytes(900),
        b"\x16\x03\x03\x00\x01\x01" * 4,
    ],
    ids=["nothing", "one byte", "part of a ClientHello", "a handshake in pieces"],
)
async def test_connection_is_counted_before_its_tls_handshake(port: int, tmp_path: Path, said: bytes) -> None:
    """Further ones of that address are closed, another address is served; in time there is room again."""
    limits = Limits(connections=8, per_peer=4, handshake=0.5)
    async with _with_tls(port, tmp_path, limits):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in idle:
            writer.write(said)
        same = [await _asked_over_tls(port) for _ in range(5)]
        other = await _asked_over_tls(port, source="127.0.0.2")
        ended = [await _ended(reader) for reader, _ in idle]
        after = await _asked_over_tls(port)
        for _, writer in idle:
            writer.close()

    assert ([b""] * 5, [True] * 4) == (same, ended)
    assert [b"HTTP/1.1 200 OK"] * 2 == [answer.partition(b"\r\n")[0] for answer in (other, after)]


async def test_all_connections_together_are_counted_before_their_handshake(port: int, tmp_path: Path) -> None:
    """However many addresses they come from."""
    async with _with_tls(port, tmp_path, Limits(connections=6, per_peer=2, handshake=30.0)) as runner:
        crowd = [
            await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{number // 2 + 2}", 0))
            for number in range(20)
        ]
        refused = [await _ended(reader) for reader, _ in crowd[6:]]
        inside = len(runner.handshakes)
        for _, writer in crowd:
            writer.close()

    assert (6, [True] * 14) == (inside, refused)


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b"\0" * 600]
)
async def test_failed_handshakes_give_their_places_back(port: int, tmp_path: Path, said: bytes) -> None:
    """Plain HTTP, an alert, garbage, and a peer that hangs up at once, over and over."""
    async with _with_tls(port, tmp_path, Limits(per_peer=2)):
        for _ in range(6):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            await _ended(reader)
            writer.close()
            _, silent = await asyncio.open_connection("127.0.0.1", port)
            silent.transport.abort()
        async with asyncio.timeout(PATIENCE):
            while not (answer := await _asked_over_tls(port)):
                pass

    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_stop_waits_for_no_handshake_but_a_moment(port: int, tmp_path: Path) -> None:
    """And closes what has not ended."""
    async with _with_tls(port, tmp_path, Limits(handshake=60.0)) as runner:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not runner.handshakes:
            await asyncio.sleep(0)

    async with asyncio.timeout(PATIENCE):
        ended = await _ended(reader)
    writer.close()

    assert (True, 0) == (ended, len(runner.handshakes))


async def test_peer_that_never_reads_is_cut(port: int) -> None:
    """One that does read gets an answer of any length, however late it begins."""
    runner = QuietRunner(_saying("x" * 20_000_000, Limits(unread=1.0, per_peer=1)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    deaf = socket.create_connection(("127.0.0.1", port))
    deaf.sendall(ASK)
    server = runner.server
    assert server is not None
    async with asyncio.timeout(PATIENCE):
        while not server.connections:
            await asyncio.sleep(0)
        while server.connections:
            await moment()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ASK)
    answer = await reader.read()
    writer.close()
    deaf.close()
    await runner.cleanup()

    assert answer.endswith(b"x" * 20_000_000)
