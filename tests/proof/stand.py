"""A broker under proof: a process that dies, the sandbox that judges it, and what its store holds meanwhile."""

import asyncio
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from broker.sandbox import visitor
from broker.sandbox.faults import Mode
from broker.tokens.schedule import Step
from tests.house import Answer
from tests.process import Process, new_process
from tests.proof import launch
from tests.proof.launch import order_death
from tests.until import moment

FACTOR = 0.01
"""The protocol's times, shortened: a lost answer is declared dead after 0.6 s instead of 60 s."""
LONG_LIFE = 3600.0
PAGE = 4096
HEALTHY_WITHIN = 20.0
ROTATIONS = {
    Mode.NONE: 'rotation = "none"',
    Mode.ON_USE: 'rotation = "on-use"',
    Mode.GRACE_SAME: 'rotation = "grace"\ngrace = "10s"',
    Mode.GRACE_SIBLING: 'rotation = "grace"\ngrace = "10s"',
    Mode.GRACE_LATEST: 'rotation = "grace"\ngrace = "10s"',
    Mode.STRICT: 'rotation = "strict"',
    Mode.FAMILY: 'rotation = "family"',
}
QUIET = """
[log]
level = "warning"
[audit]
to = { path = "/dev/null" }
"""
"""Callers who ask all the time would write more into these than the store holds, and `no_room` is about the store."""
ROTATED = """
SELECT external_id, (SELECT COUNT(*) FROM refresh_tokens WHERE grant_id = MAX(grants.id) AND parent IS NOT NULL)
  FROM grants GROUP BY external_id"""
"""How often each account's last grant was rotated."""
LOSING = frozenset({Mode.STRICT, Mode.FAMILY})
"""Modes in which a rotation that was never stored is lost, whatever a client does."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the store holds of an account."""

    generation: int
    dead: str | None
    intent: str | None


@dataclass(slots=True)
class Stand:
    """One broker and its accounts, each with a number of its own at the sandbox's Kit."""

    process: Process
    mode: Mode
    born_at: dict[str, int] = field(default_factory=dict)
    """The generation of each account's present grant when it was connected."""
    number: dict[str, int] = field(default_factory=dict)

    @property
    def orders(self) -> Path:
        return self.process.folder / "orders"

    def order_death(self, step: Step, times: int = 1) -> None:
        order_death(self.orders, step, times)

    def fault(self, **members: object) -> None:
        """Switch something at the sandbox's Kit."""
        self.process.sandbox.faults.set("kit", **members)

    async def open(self, *names: str) -> None:
        """Start the broker and connect these accounts."""
        await self.process.start()
        socket = aiohttp.UnixConnector(path=str(self.process.folder / "var" / "admin.sock"))
        async with aiohttp.ClientSession(connector=socket) as admin:
            caller = {
                "name": "service",
                "accounts": ["*"],
                "permissions": ["token", "refresh", "install", "accounts"],
            }
            async with admin.post("http://admin/callers", json=caller) as response:
                assert response.status == 201, await response.text()
                self.process.key = (await response.json())["key"]
        for name in names:
            self.number[name] = 1000 + len(self.number)
            await self.connect(name)

    async def connect(self, name: str) -> None:
        """Connect the account to Kit, again if need be."""
        before = self.rows().get(name)
        await self.install("kit", name, account=str(self.number[name]))
        # Not read back: on a busy machine the account may have been renewed by then.
        self.born_at[name] = 1 if before is None else before.generation + 1

    async def install(self, provider: str, name: str, **answers: str) -> None:
        """What a person in a browser does, with these answers on the consent page."""
        made = await self.ask("POST", "/installs", {"provider": provider, "account": name})
        assert made.status == 201, made.body
        visit = await visitor.install(made.json["install_url"], answers=answers)
        assert visit.status == 200, visit.text

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        headers = {"Authorization": f"Bearer {self.process.key}"}
        url = self.process.internal + path
        async with self.process.session.request(method, url, headers=headers, json=body) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def force(self, name: str) -> Answer | None:
        """Demand a renewal; None where the broker died over it."""
        with suppress(aiohttp.ClientError):
            return await self.ask("POST", f"/token/{name}/refresh")
        return None

    async def insist(self, name: str) -> Answer:
        """Demand a renewal and say that the token was refused, so that no living token delays it."""
        generation = self.rows()[name].generation
        await self.ask("POST", f"/token/{name}/refresh", {"rejected_generation": generation})
        return await self.ask("POST", f"/token/{name}/refresh")

    async def healthy(self) -> None:
        """Wait until the broker complains of nothing: what an earlier run left in the spool is stored."""
        async with asyncio.timeout(HEALTHY_WITHIN):
            while (await self.ask("GET", "/readyz")).json["problems"]:
                await moment()

    async def use(self, token: str) -> int:
        """Use an access token at the sandbox's Kit, as callers do: in mode D only that ends the old one."""
        url = f"{self.process.sandbox.base_url}/kit/v4/account"
        headers = {"Authorization": f"Bearer {token}"}
        async with self.process.session.get(url, headers=headers) as response:
            return response.status

    async def killed(self) -> None:
        """Wait until the broker has been killed."""
        assert -signal.SIGKILL == await self.process.wait()

    def rows(self) -> dict[str, Row]:
        """The accounts as the store holds them; a connection that only reads changes nothing."""
        path = self.process.folder / "var" / "broker.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT name, generation, dead, intent_id FROM accounts").fetchall()
        return {name: Row(*members) for name, *members in found}

    def sealed_refresh(self, name: str) -> str:
        """The account's refresh token as it lies in the store."""
        path = self.process.folder / "var" / "broker.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            [(sealed,)] = connection.execute("SELECT sealed_refresh FROM accounts WHERE name = ?", (name,))
        return str(sealed)

    def dead(self) -> dict[str, str]:
        """The accounts that a person has to connect again, and why."""
        return {name: row.dead for name, row in self.rows().items() if row.dead is not None}

    @contextmanager
    def no_room(self) -> Iterator[None]:
        """The store takes nothing, as on a full disk; small files such as the spool's still can be written.

        The kernel refuses the process whatever it writes beyond a file's first page; the WAL's every frame ends there.
        """
        assert self.process.running is not None
        pid = self.process.running.pid
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (PAGE, most))
        yield
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

    def judge(self, sql: str) -> list[Any]:
        """Ask the sandbox's own record, in its file: there is too much of it to be sent each time."""
        path = self.process.folder / "sandbox.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()

    def renewals(self, where: str = "TRUE") -> int:
        """How many renewals reached the sandbox."""
        [(count,)] = self.judge(f"SELECT COUNT(*) FROM requests WHERE kind = 'refresh' AND {where}")
        return int(count)

    def outstanding(self) -> int:
        """How many of them the sandbox is at."""
        return self.renewals("ended IS NULL")

    def refusals(self) -> int:
        return self.renewals("outcome = 'invalid_grant'")

    def overlaps(self) -> int:
        """How many came while another with the same token was not over."""
        return self.renewals("beside <> '[]'")

    def uncommitted(self) -> set[str]:
        """The accounts with a rotation that the sandbox made and the store never heard of."""
        rotations = dict(self.judge(ROTATED))
        rows = self.rows()
        return {
            name
            for name, number in self.number.items()
            if rotations[str(number)] > rows[name].generation - self.born_at[name]
        }


@asynccontextmanager
async def open_stand(
    folder: Path, mode: Mode, *names: str, life: float = LONG_LIFE, factor: float = FACTOR, extra: str = ""
) -> AsyncIterator[Stand]:
    """A started broker with connected accounts, against a Kit that rotates in `mode`."""
    async with new_process(folder) as process:
        stand = Stand(process, mode)
        process.command, process.arguments = launch.main, (str(factor), str(stand.orders))
        # The table [providers.kit] ends where the next begins, so its last keys go before that.
        config = process.config.read_text()
        config = config.replace("[providers.kustomer]", f"{ROTATIONS[mode]}\n[providers.kustomer]", 1)
        process.config.write_text(config + QUIET + extra)
        stand.fault(rotation=mode, life=life)
        await stand.open(*names)
        yield stand
