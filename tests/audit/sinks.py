"""Sinks that fail, hang and recover when a test says so."""

import errno
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from broker.audit.audit import Audit
from broker.audit.lines import AuditRecord, Head
from broker.model import Caller
from broker.observe.health import Health
from broker.store.keys import KeyStore
from broker.store.sqlite import SqliteDatabase
from tests.audit.lines import key_of
from tests.fakes.clock import FakeClock
from tests.template import put_store


@dataclass(slots=True)
class Sink:
    """Keeps what is written; `full` refuses all, `room` takes so many lines more, `stuck` hangs."""

    lines: list[bytes] = field(default_factory=list)
    writes: int = 0
    full: bool = False
    room: int | None = None
    free: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.free.set()

    def open(self) -> None:
        """Nothing to open."""

    def begins_file(self, at: float) -> bool:
        return False

    def last(self) -> Head | None:
        return None

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        self.entered.set()
        self.free.wait(20)
        self.writes += 1
        count = 0 if self.full else len(lines) if self.room is None else min(self.room, len(lines))
        self.lines += lines[:count]
        if self.room is not None:
            self.room -= count
        return count, None if count == len(lines) else OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        """Nothing to close."""


@dataclass(slots=True)
class Desk:
    """An audit, its sink, its clock, and what it complains of."""

    sink: Sink
    audit: Audit
    clock: FakeClock
    health: Health

    async def settle(self) -> None:
        """Until the thread is at rest and the loop has heard of it."""
        await self.audit.in_thread(lambda: None)

    async def look_after(self) -> None:
        self.audit.look_after()
        await self.settle()
        await self.settle()

    @property
    def callers(self) -> list[str]:
        """Whose records were written, in order."""
        parts = (line.partition(b'"caller":"')[2].partition(b'"')[0] for line in self.sink.lines)
        return [part.decode() for part in parts if part]


@asynccontextmanager
async def open_desk(sink: Sink | None = None) -> AsyncIterator[Desk]:
    sink, clock, health = sink or Sink(), FakeClock(), Health()
    with TemporaryDirectory() as folder:
        await put_store(path := Path(folder) / "store" / "broker.db")
        database = await SqliteDatabase.open(path)
        audit = Audit(
            sink=sink,
            key_of=key_of,
            store=KeyStore(database),
            replica="a:1",
            clock=clock,
            health=health,
            keep=float("inf"),
        )
        await audit.begin()
        try:
            yield Desk(sink, audit, clock, health)
        finally:
            sink.free.set()
            await audit.close()
            await database.close()


def by(name: str) -> AuditRecord:
    """A record of that caller's."""
    return AuditRecord(Caller(name, (), frozenset(), "key k"), "token", "acme", "request-1")
