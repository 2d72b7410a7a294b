"""`broker backup`: a copy of the store, through the gate, into the hands of whoever asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.callers.authorization import Gate
from broker.clock import Clock
from broker.errors import InvalidRequest
from broker.model import Caller, Permission
from broker.store.backup import SqliteBackup

CHUNK = 256 * 1024


class BackupDesk:
    """Backups over the admin socket."""

    def __init__(self, *, copies: SqliteBackup | None, gate: Gate, clock: Clock) -> None:
        self._gate, self._clock = gate, clock
        self._copies = copies
        """None where the store is a PostgreSQL database: its server has its own ways, and other databases and a log."""

    @asynccontextmanager
    async def backup(self, caller: Caller, *, request_id: str) -> AsyncIterator[Path]:
        """A sound copy of the store as it is now, gone afterwards; raises StorageUnavailable."""
        await self._gate.require(caller, Permission.ADMIN, None, request_id=request_id)
        if self._copies is None:
            raise InvalidRequest("the store is a PostgreSQL database; back it up with pg_dump")
        async with self._copies.copy(self._clock.now()) as path:
            size = path.stat().st_size
            await self._gate.note(caller, "backup", None, f"{size} bytes", request_id=request_id)
            yield path


async def chunks(path: Path) -> AsyncIterator[bytes]:
    """The bytes of a file, without making anybody wait for the disk."""
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
