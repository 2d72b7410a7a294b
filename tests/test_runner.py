"""The HTTP server at a stop: whose connection was taken gets an answer."""

import asyncio

import pytest
from aiohttp import web

from broker.runner import QuietRunner
from broker.web import new_application
from tests.ports import free_port

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
