"""A broker that can die at any step, beside a sandbox that lives on, on a clock that moves only when it must."""

import asyncio
import sqlite3
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
from structlog.testing import capture_logs

from broker.errors import BrokerError
from broker.sandbox import visitor
from broker.sandbox.faults import Mode
from broker.store.incarnation import sidecar_of
from broker.tokens.background import until_cancelled
from broker.tokens.schedule import Step
from tests.house import OPERATOR, Answer, House, open_house
from tests.lifetimes.rest import at_rest
from tests.proof.stand import ROTATIONS

T = TypeVar("T")
LIFE = 3600.0
BEATS = 2
UNHEARD_OF = ("background.round_failed", "renewal.crashed", "request.crashed", "store.is_copy")
"""What the broker logs only when it is wrong."""
OWN = ("broker.sandbox", "broker.store")
"""Parts whose tasks do not die with the broker's: the provider, and the store's connection, which is closed."""


class Killed(asyncio.CancelledError):
    """The process is gone; whatever it was at ends here."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a dead process leaves on the disk: everything that was committed, and the spool."""

    store: Path
    content: bytes
    beside: Mapping[Path, bytes]

    @classmethod
    def take(cls, store: Path) -> Self:
        with closing(read_only(store)) as connection:
            content = connection.serialize()
        _kept(store).unlink(missing_ok=True)
        _kept(store).hardlink_to(sidecar_of(store))
        return cls(store, content, {path: path.read_bytes() for path in _spool(store) if path.is_file()})

    def restore(self) -> None:
        """Undo what was written after the death, in the same files: a copy would be noticed (R13)."""
        for suffix in ("-wal", "-shm"):
            self.store.with_name(self.store.name + suffix).unlink(missing_ok=True)
        self.store.write_bytes(self.content)
        _kept(self.store).replace(sidecar_of(self.store))
        for path in _spool(self.store):
            path.unlink()
        for path, content in self.beside.items():
            path.write_bytes(content)
            path.chmod(0o600)


@dataclass(slots=True)
class World:
    """The broker, its provider, its disk, and whoever kills it."""

    folder: Path
    mode: Mode
    order: Step | None = None
    """At which step of a renewal the broker is to die."""
    image: Image | None = None
    """Of the disk, from the death to the restart."""
    stored: str | None = None
    """Whose renewal the broker died over when its successor was on the disk already."""
    deaths: int = 0
    house: House = field(init=False)
    logs: list[Any] = field(default_factory=list)
    _lock: sqlite3.Connection | None = None
    _loops: list["asyncio.Task[None]"] = field(default_factory=list)
    _closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self) -> None:
        self.logs = self._closing.enter_context(capture_logs())
        extra = _provider(self.mode)
        self.house = await self._closing.enter_async_context(
            open_house(self.folder, extra=extra, watch=self.watch)
        )
        self.fault(rotation=self.mode, life=LIFE)
        await self._begin()

    async def close(self) -> None:
        self.accept_writes()
        await self._end_loops()
        await self._cut()
        await self._closing.aclose()

    @property
    def store(self) -> Path:
        return self.house.broker.context.settings.store.path

    @property
    def now(self) -> float:
        return self.house.clock.now()

    @property
    def refusing(self) -> bool:
        """Whether the store takes no write."""
        return self._lock is not None

    def fault(self, **members: object) -> None:
        """Switch something at the provider."""
        self.house.sandbox.faults.set("kit", **members)

    def switch(self, mode: Mode) -> None:
        """The provider rotates in another way from now on, and the configuration says so."""
        self.mode = mode
        self.fault(rotation=mode)
        self.house.extra = _provider(mode)
        self.house.write_config()
        self.house.broker.use(self.house.settings)

    def refuse_writes(self) -> None:
        """Somebody else holds SQLite's write lock: every write fails at once, reads go on."""
        self._lock = sqlite3.connect(self.store, isolation_level=None)
        self._lock.execute("BEGIN IMMEDIATE")

    def accept_writes(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def watch(self, step: Step) -> None:
        """The broker's `Watch`."""
        if self.image is None and step is self.order:
            self.fall()
            task = asyncio.current_task()
            if task is not None and step in (Step.COMMIT_DURABLE, Step.SPOOLED):
                self.stored = task.get_name().removeprefix("renewal of ")
        if self.image is not None:
            raise Killed

    def fall(self) -> None:
        """The process dies now: what lies on the disk stays, and nothing else of it counts."""
        self.order = self.stored = None
        self.image = Image.take(self.store)

    async def run(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do it, letting time pass while it waits for that; None where the broker died over it."""
        task, deaths = asyncio.ensure_future(work), self.deaths
        while not task.done() and self.image is None:
            await at_rest(self.house.clock)
            if not task.done() and self.image is None:
                self.house.clock.advance(self.house.clock.next_wake or 1.0)
        await self.rest()
        if not task.done():
            task.cancel()
        result: T | None = None
        with suppress(aiohttp.ClientError, asyncio.CancelledError):
            result = await task
        return result if deaths == self.deaths else None

    async def pass_time(self, seconds: float) -> None:
        """In one jump, as on a machine that slept, and then a few beats of the background's."""
        self.house.clock.advance(seconds)
        await self.rest()
        for _ in range(BEATS):
            self.house.clock.advance(min(self.house.clock.next_wake or 1.0, 1.0))
            await self.rest()

    async def rest(self) -> None:
        """Until nothing moves but with time; a broker that died meanwhile is started again."""
        await at_rest(self.house.clock)
        if self.image is not None:
            await self.restart()

    async def restart(self) -> None:
        """Start it again on what it left."""
        assert self.image is not None
        self.accept_writes()
        await self._end_loops()
        await self._cut()
        await self.house.close()
        self.image.restore()
        self.image = None
        self.deaths += 1
        await self.house.open()
        await self._begin()
        await at_rest(self.house.clock)

    async def stop(self) -> None:
        """SIGTERM, as `serve` does it, and a new start."""
        broker = self.house.broker
        broker.tokens.permit.stopping = broker.context.health.stopping = True
        await self._end_loops()
        await broker.tokens.flights.drain()
        await broker.tokens.retained.settled()
        await broker.installs.late.settled()
        await broker.tokens.uses.flush()
        await broker.callers.service.flush_uses()
        if self.image is None:
            await self.house.close()
            await self.house.open()
            await self._begin()

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        more: dict[str, Any] = {} if body is None else {"json": body}
        return await self.house.ask(method, path, **more)

    async def hang_up(self, name: str) -> None:
        """Demand a renewal, and go away before it can be there."""
        asking = asyncio.ensure_future(self.house.post(f"/token/{name}/refresh"))
        for _ in range(60):
            await asyncio.sleep(0)
        await until_cancelled(asking)  # type: ignore[arg-type] # whatever it would have returned

    async def install(self, name: str, holder: str) -> visitor.Visit:
        """A person connects the account in a browser."""
        made = await self.ask("POST", "/installs", {"provider": "kit", "account": name})
        assert made.status == 201, made.body
        return await visitor.install(made.json["install_url"], answers={"account": holder})

    async def override(self, name: str) -> None:
        """`broker accounts refresh`."""
        with suppress(BrokerError):
            await self.house.broker.tokens.service.override(OPERATOR, name, request_id="lifetimes")

    async def use(self, token: str) -> int:
        """Use an access token at the provider, as callers do: in mode D only that ends the old one."""
        url = f"{self.house.sandbox.base_url}/kit/v4/account"
        headers = {"Authorization": f"Bearer {token}"}
        async with self.house.session.get(url, headers=headers) as response:
            return response.status

    async def revoke(self, holder: str) -> None:
        """The person uninstalls the app at the provider."""
        body = {"provider": "kit", "external_id": holder}
        async with self.house.session.post(
            f"{self.house.sandbox.base_url}/_sandbox/revoke", json=body
        ) as answer:
            assert answer.status == 200

    def complaints(self) -> list[object]:
        """What the broker logged that it never should."""
        return [entry for entry in self.logs if entry["event"] in UNHEARD_OF]

    async def _begin(self) -> None:
        """What `serve` starts beside the listeners."""
        broker = self.house.broker
        # A refused write is to fail at once, not after five real seconds.
        await broker.context.stores.database.write(lambda store: store.fetch("PRAGMA busy_timeout = 0"))
        recovery = broker.tokens.recovery.renew(broker.left_open)
        self._loops = [asyncio.create_task(broker.background.run()), asyncio.create_task(recovery)]

    async def _end_loops(self) -> None:
        for task in self._loops:
            await until_cancelled(task)

    async def _cut(self) -> None:
        """Nothing of the dead process runs on; its connections close."""
        dying = [task for task in asyncio.all_tasks() if _is_brokers(task)]
        for task in dying:
            task.cancel()
        await asyncio.gather(*dying, return_exceptions=True)


def read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def _provider(mode: Mode) -> str:
    return f"[providers.kit]\n{ROTATIONS[mode]}\n"


def _kept(store: Path) -> Path:
    """Another name for the sidecar at the death: a stop replaces the file, and another file would be a copy (R13)."""
    return store.with_name(store.name + ".sidecar")


def _spool(store: Path) -> list[Path]:
    folder = store.with_name(store.name + ".spool")
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_brokers(task: "asyncio.Task[Any]") -> bool:
    frame = getattr(task.get_coro(), "cr_frame", None)
    owner = type(frame.f_locals.get("self")).__module__ if frame else ""
    return owner.startswith("broker.") and not owner.startswith(OWN)
