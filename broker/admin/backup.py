"""`broker backup`: a copy of the store, through the gate, into the hands of whoever asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from broker.callers.authorization import Gate
from broker.clock import Clock
from broker.model import Caller, Permission

CHUNK = 256 * 1024


class Copies(Protocol):
    """Whoever can copy a store that is in use."""

    def copy(self, at: float) -> AbstractAsyncContextManager[Path]: ...


class BackupDesk:
    """Backups over the admin socket."""

    def __init__(self, *, copies: Copies, gate: Gate, clock: Clock) -> None:
        self._copies, self._gate, self._clock = copies, gate, clock

    @asynccontextmanager
    async def backup(self, caller: Caller, *, request_id: str) -> AsyncIterator[Path]:
        """A sound copy of the store as it is now, gone afterwards; raises StorageUnavailable."""
        await self._gate.require(caller, Permission.ADMIN, None, request_id=request_id)
        async with self._copies.copy(self._clock.now()) as path:
            size = path.stat().st_size
            await self._gate.note(caller, "backup", None, f"{size} bytes", request_id=request_id)
            yield path


async def chunks(path: Path) -> AsyncIterator[bytes]:
    """The bytes of a file, without making anybody wait for the disk."""
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
