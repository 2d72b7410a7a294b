"""A proxy that gives each request an address of its own, so that none pays for another's guesses at keys."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

REQUEST_LINE = re.compile(rb"\A[A-Z]{3,10} [^\r\n]* HTTP/1\.1\r\n")


@asynccontextmanager
async def relay(to: int) -> AsyncIterator[int]:
    """The port of a proxy before port `to`; nothing but that one header is added."""
    numbers = itertools.count(1)

    def named(chunk: bytes) -> bytes:
        number = next(numbers)
        line = f"X-Forwarded-For: 10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}\r\n"
        return REQUEST_LINE.sub(lambda found: found[0] + line.encode(), chunk)

    relaying: set[asyncio.Task[None]] = set()

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            relaying.add(task)
            task.add_done_callback(relaying.discard)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", to)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(reader, server_writer, named))
                both.create_task(_pass_on(server_reader, writer, lambda chunk: chunk))
        finally:
            for end in (writer, server_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    server = await asyncio.start_server(through, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        for task in list(relaying):
            task.cancel()
        await asyncio.gather(*relaying, return_exceptions=True)


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(change(chunk))
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()
