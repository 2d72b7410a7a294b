"""The servers of a measurement, each a process of its own on one core, while the load runs on another."""

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))
STARTS_WITHIN = 120.0
INDEPENDENT = frozenset({"bare.py", "upstream.py"})
"""Scripts that do not use the broker, so that every tree is measured with the same."""
KEPT = frozenset({"Content-Length", "Date"})
"""Headers that aiohttp writes by itself."""


@dataclass(frozen=True)
class Sizes:
    """How long and how much is measured."""

    seconds: float = 2.0
    """Of each load."""
    rounds: int = 7
    many: int = 1_000_000
    """Accounts of a large store."""
    storm: int = 10_000
    """Accounts that expire at once."""
    crowds: int = 1_500
    """Accounts that are expired when a measure begins, to be renewed by asking."""


SMOKE = Sizes(seconds=0.05, rounds=1, many=300, storm=100, crowds=60)
"""Only to see that everything runs; the figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Group:
    """Accounts `<prefix>0` and on, which live `left` seconds more of `life`."""

    prefix: str
    count: int
    provider: str = "fast"
    life: float = 172_800.0
    left: float = 170_000.0
    spread: float = 0.0
    """Seconds over which their ends lie apart, evenly, from the first on."""


@dataclass(slots=True)
class Server:
    """A process under measure."""

    port: int
    process: Process
    key: str = ""

    def cpu(self) -> float:
        """Seconds of processor time so far, of all its threads."""
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def memory(self) -> int:
        """Bytes that it holds in memory."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    async def told(self, order: str = "") -> str:
        """What one of this folder's own servers answers to a line."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{order}\n".encode())
        await stdin.drain()
        return (await stdout.readline()).decode()

    @property
    def bearer(self) -> str:
        return f"Authorization: Bearer {self.key}"


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a measurement runs, and which tree of the program."""

    folder: Path
    tree: Path
    sizes: Sizes

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {**kept, "PYTHONPATH": str(self.tree)}

    @asynccontextmanager
    async def broker(
        self,
        groups: Sequence[Group],
        *,
        upstream: Server | None = None,
        config: str = "",
        preload: Path | None = None,
    ) -> AsyncIterator[Server]:
        """`broker serve` on a store with these accounts."""
        async with (
            self.stored(groups, upstream=upstream, config=config) as stored,
            stored.serving(preload) as server,
        ):
            yield server

    @asynccontextmanager
    async def stored(
        self,
        groups: Sequence[Group],
        memory: int = 200_000,
        *,
        upstream: Server | None = None,
        config: str = "",
        background: bool = False,
    ) -> "AsyncIterator[Stored]":
        """A folder with a configuration, these accounts, and a caller."""
        port, folder = free_port(), self.folder / f"broker-{free_port()}"
        far_port = upstream.port if upstream else 9
        await self.prepare(folder, port, far_port, config, memory, background=background)
        try:
            yield Stored(self, folder, port, await self.fill(folder, groups))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def prepare(
        self, folder: Path, port: int, upstream: int, config: str, memory: int, *, background: bool
    ) -> None:
        """Write the configuration."""
        folder.mkdir(mode=0o700, parents=True)
        (folder / "secret").write_text("bench-secret")
        (folder / "secret").chmod(0o600)
        provider = (
            'type = "oauth2"\nclient_id = "bench"\nclient_secret = { file = "secret" }\nrotation = "strict"\n'
        )
        provider += 'authorize_url = "http://127.0.0.1:9/"\n'
        url = f"http://127.0.0.1:{upstream}"
        (folder / "config.toml").write_text(
            f'[server]\ninternal = "127.0.0.1:{port}"\npublic = "127.0.0.1:{free_port()}"\n'
            'metrics_from = ["127.0.0.1"]\n'
            f'[store]\nurl = "sqlite:broker.db"\nmemory = {memory}\n'
            '[audit]\nto = { path = "audit.jsonl" }\n[refresh]\n'
            f"background = {str(background).lower()}\n"
            f'[providers.fast]\n{provider}token_url = "{url}/0"\n'
            f'[providers.slow]\n{provider}token_url = "{url}/2000"\n'
            f'[providers.usual]\n{provider}token_url = "{url}/200"\n{config}'
        )

    async def fill(self, folder: Path, groups: Sequence[Group]) -> str:
        """Put accounts and a caller into a new store; the caller's key."""
        told = {"groups": [{name: getattr(group, name) for name in Group.__slots__} for group in groups]}
        seeding = await asyncio.create_subprocess_exec(
            sys.executable,
            str(self._path("seed.py")),
            str(folder / "config.toml"),
            stdin=PIPE,
            stdout=PIPE,
            env=self.environ,
        )
        out, _ = await seeding.communicate(json.dumps(told).encode())
        if seeding.returncode:
            raise RuntimeError("the store could not be filled")
        return out.decode().strip()

    @asynccontextmanager
    async def serve(self, folder: Path, port: int, preload: Path | None = None) -> AsyncIterator[Server]:
        """Run the broker on a folder that is prepared."""
        # Safe path: else the folder that the harness runs in comes before the tree.
        command = (sys.executable, "-P", "-m", "broker", "--config", str(folder / "config.toml"), "serve")
        environ = {"LD_PRELOAD": str(preload)} if preload else {}
        with (folder / "log").open("wb") as log:
            process = await self._spawn(command, environ, stdout=log, stderr=log)
        async with _ending(process):
            await until_open(port, process)
            yield Server(port, process)

    @asynccontextmanager
    async def script(self, name: str, *arguments: object, core: int = 0) -> AsyncIterator[Server]:
        """One of this folder's own servers; the first argument is its port where it is a number."""
        command = (sys.executable, str(self._path(name)), *map(str, arguments))
        process = await self._spawn(command, {}, core=core, stdin=PIPE, stdout=PIPE)
        async with _ending(process):
            assert process.stdout is not None
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"{name} does not start")
            yield Server(arguments[0] if isinstance(arguments[0], int) else 0, process)

    def _path(self, name: str) -> Path:
        """A script that uses the broker is the tree's own, which knows the modules of that tree."""
        return (HERE if name in INDEPENDENT else self.tree / "tests" / "bench") / name

    @asynccontextmanager
    async def bare(self, broker: Server) -> AsyncIterator[Server]:
        """The bare server, which answers what this broker answers."""
        file = self.folder / f"answer-{free_port()}.json"
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{broker.port}/token/live0"
            async with session.get(url, headers={"Authorization": f"Bearer {broker.key}"}) as answer:
                headers = {name: value for name, value in answer.headers.items() if name not in KEPT}
                file.write_text(json.dumps({"headers": headers, "body": await answer.text()}))
        async with self.script("bare.py", free_port(), file) as server:
            yield server

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[Server]:
        """Somebody else's machine: it takes nothing of the core that the broker has."""
        async with self.script("upstream.py", free_port(), core=-1) as server:
            yield server

    async def _spawn(
        self, command: Sequence[str], environ: Mapping[str, str], *, core: int = 0, **pipes: Any
    ) -> Process:
        return await asyncio.create_subprocess_exec(
            *command, env={**self.environ, **environ}, preexec_fn=lambda: _use(core), **pipes
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """A broker that does not run just now."""

    stand: Stand
    folder: Path
    port: int
    key: str

    @asynccontextmanager
    async def serving(self, preload: Path | None = None) -> AsyncIterator[Server]:
        """It runs, and listens."""
        async with self.stand.serve(self.folder, self.port, preload) as server:
            server.key = self.key
            yield server


def free_port() -> int:
    """A port that nobody listens on, where no test and no client of the kernel's looks for one."""
    while True:
        port = random.randrange(5_000, 12_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _use(core: int) -> None:
    os.sched_setaffinity(0, {CORES[core]})


def use_last_core() -> None:
    """Leave the first core to the servers, where there are two."""
    _use(-1)


@asynccontextmanager
async def _ending(process: Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(20):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def until_open(port: int, process: Process) -> None:
    """Return once the process listens there."""
    ends_at = time.perf_counter() + STARTS_WITHIN
    while time.perf_counter() < ends_at and process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.002)
            continue
        writer.close()
        return
    raise RuntimeError("the broker does not start; see its log")


async def slow_disk(folder: Path) -> Path | None:
    """A library that makes flushes slow; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "slow_disk.so"
    building = await asyncio.create_subprocess_exec(
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-o",
        str(library),
        str(HERE / "slow_disk.c"),
        "-ldl",
        stderr=DEVNULL,
    )
    return library if await building.wait() == 0 else None
