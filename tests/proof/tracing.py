"""strace on the running broker: what it wrote in which order, and system calls that fail when they are told to."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.proof.stand import Stand

ATTACHED_WITHIN = 20.0
GONE_WITHIN = 10.0


@asynccontextmanager
async def traced(stand: Stand, *options: str) -> AsyncIterator[Path]:
    """While this lasts strace holds the broker; the file with what it saw is whole afterwards."""
    assert stand.process.running is not None
    seen = stand.process.folder / "trace"
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-y", "-s", "4096", "-o", str(seen), "-p", str(stand.process.running.pid)),
        *options,
        stderr=asyncio.subprocess.PIPE,
    )
    assert tracer.stderr is not None
    async with asyncio.timeout(ATTACHED_WITHIN):
        said = await tracer.stderr.readline()
    assert b"attached" in said, said.decode()
    try:
        yield seen
    finally:
        await let_go(tracer)


async def let_go(tracer: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        tracer.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(tracer.wait(), GONE_WITHIN)
        except TimeoutError:
            # strace can wait for ever for a thread of a process that it has killed itself.
            tracer.kill()
            await tracer.wait()
