"""A crowd that waits for one process of the broker, each on a connection of its own."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from tests.process import Process


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096


async def measure(process: Process, crowd: int) -> tuple[float, set[bytes]]:
    """Let so many wait, renew, and count who heard of it; kilobytes for each while they waited, and their answers."""
    assert process.running is not None
    pid = process.running.pid
    waiters = []
    async with AsyncExitStack() as closing:
        before = resident(pid)
        for _ in range(crowd):
            reader, writer = await asyncio.open_connection("127.0.0.1", process.internal_port)
            closing.callback(writer.close)
            writer.write(_question(process))
            waiters.append(reader)
        await _all_wait(process, crowd)
        during = resident(pid)
        await process.session.post(
            f"{process.internal}/token/acme/refresh", headers={"Authorization": f"Bearer {process.key}"}
        )
        answers = await asyncio.gather(*(_generation(reader) for reader in waiters))
    return (during - before) / crowd / 1024, set(answers)


def _question(process: Process) -> bytes:
    head = f'Host: x\r\nAuthorization: Bearer {process.key}\r\nIf-None-Match: "1"\r\n'
    return f"GET /token/acme?wait=60 HTTP/1.1\r\n{head}\r\n".encode()


async def _all_wait(process: Process, crowd: int) -> None:
    """Plain requests come behind all of theirs; a few more of them than a connection's turn needs."""
    for _ in range(20):
        answer = await process.get("/token/acme")
        assert answer.status == 200, (crowd, answer.body)


async def _generation(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return next(line for line in head.split(b"\r\n") if line.startswith(b"ETag"))
