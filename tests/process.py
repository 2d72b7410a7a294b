"""The real broker in a process of its own, beside a sandbox that outlives it."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from multidict import CIMultiDict

from broker.__main__ import main
from broker.clock import SystemClock
from broker.config.values import TcpListen
from broker.sandbox import Sandbox, visitor
from tests.forking import NOTHING, Main, Running, fork
from tests.house import Answer
from tests.ports import free_port

READY_WITHIN = 60.0
BROKER = (sys.executable, "-X", "dev", "-W", "error", "-m", "broker")


@dataclass(slots=True)
class Process:
    """One broker process after the other, on one folder."""

    folder: Path
    sandbox: Sandbox
    session: aiohttp.ClientSession
    internal_port: int
    public_port: int
    extra: str = ""
    command: Sequence[str] | Main = main
    """The command line of a broker that starts from nothing, or the entry point of one that is forked."""
    arguments: Sequence[str] = ()
    """Before those of the broker."""
    key: str = ""
    running: Running | None = None
    output: list[Path] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    """What is in the environment besides."""
    _notify: socket.socket | None = None

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def internal(self) -> str:
        return f"http://127.0.0.1:{self.internal_port}"

    def write_config(self, extra: str | None = None) -> None:
        base = self.sandbox.base_url
        self.config.write_text(
            f"""
[server]
internal = "127.0.0.1:{self.internal_port}"
public = "127.0.0.1:{self.public_port}"
public_url = "http://127.0.0.1:{self.public_port}"
[providers.kit]
client_id = "sandbox-kit"
client_secret = "sandbox-kit-secret"
authorize_url = "{base}/kit/oauth/authorize"
token_url = "{base}/kit/oauth/token"
revoke_url = "{base}/kit/v4/oauth/revoke"
api_url = "{base}/kit"
[providers.kustomer]
client_id = "sandbox-kustomer"
client_secret = "sandbox-kustomer-secret"
authorize_url = "{base}/kustomer/oauth/authorize"
token_url = "{base}/kustomer/oauth/token"
api_url = "{base}/kustomer"
{self.extra if extra is None else extra}
"""
        )

    async def start(self) -> None:
        """Start it and wait for READY=1."""
        self._listen_for_ready()
        log = self.folder / f"output-{len(self.output)}.txt"
        self.output.append(log)
        self.running = await self._begun(self.command, "serve", out=log, err=log)
        await self._until("READY=1")

    async def signal(self, number: signal.Signals) -> None:
        assert self.running is not None
        self.running.send_signal(number)

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self.running is not None
        code = await self.running.wait()
        self.running = None
        return code

    async def kill(self) -> None:
        """kill -9."""
        await self.signal(signal.SIGKILL)
        await self.wait()

    async def stop(self) -> int:
        await self.signal(signal.SIGTERM)
        return await self.wait()

    async def until(self, state: str) -> str:
        """Wait for a notification that holds `state`."""
        return await self._until(state)

    async def run(self, *arguments: str, stdin: Path = NOTHING) -> tuple[int, str, str]:
        """One command of the command line, forked: its exit code and what it printed."""
        command = self.command if callable(self.command) else main
        with TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            code = await (await self._forked(command, *arguments, out=out, err=err, stdin=stdin)).wait()
            return code, out.read_text(), err.read_text()

    async def _begun(self, command: Sequence[str] | Main, *arguments: str, out: Path, err: Path) -> Running:
        if callable(command):
            return await self._forked(command, *arguments, out=out, err=err)
        with out.open("ab") as to_out, err.open("ab") as to_err:
            return await asyncio.create_subprocess_exec(
                *(*command, *self._words(*arguments)), stdout=to_out, stderr=to_err, env=self._environment()
            )

    async def _forked(
        self, command: Main, *arguments: str, out: Path, err: Path, stdin: Path = NOTHING
    ) -> Running:
        return await fork(command, self._words(*arguments), self._environment(), out, err, stdin)

    def _words(self, *arguments: str) -> list[str]:
        return [*self.arguments, "--config", str(self.config), *arguments]

    async def connect(self, account: str = "acme", provider: str = "kit", **answers: str) -> None:
        """Connect an account through the command line and a browser."""
        code, url, err = await self.run("install-link", provider, "--account", account)
        assert code == 0, err
        visit = await visitor.install(url.strip(), answers=answers)
        assert visit.status == 200, visit.text

    async def new_key(self, *accounts: str) -> None:
        globs = [word for glob in accounts or ("*",) for word in ("--account", glob)]
        code, key, err = await self.run(
            "callers", "add", "service", *globs, "--permission", "token", "--permission", "refresh"
        )
        assert code == 0, err
        self.key = key.strip()

    async def get(self, path: str) -> Answer:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.session.get(self.internal + path, headers=headers) as response:
            return Answer(response.status, CIMultiDict(response.headers), await response.read())

    async def judge(self) -> Any:
        async with self.session.get(f"{self.sandbox.base_url}/_sandbox/record") as response:
            return await response.json()

    def said(self) -> str:
        """Everything that every run has printed so far."""
        return "".join(path.read_text() for path in self.output)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of that name."""
        lines = [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **kept,
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "PYTHONPATH": str(Path(__file__).parent.parent),
            **self.environ,
        }

    def _listen_for_ready(self) -> None:
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        if self._notify is not None:
            self._notify.close()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(path))
        self._notify.setblocking(False)

    async def _until(self, state: str) -> str:
        assert self._notify is not None
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(READY_WITHIN):
            while True:
                ended = asyncio.ensure_future(self.running.wait()) if self.running else None
                heard = asyncio.ensure_future(loop.sock_recv(self._notify, 4096))
                waiting = {heard, ended} - {None}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]  # None was taken out
                if ended is not None:
                    ended.cancel()
                if not heard.done():
                    heard.cancel()
                    raise AssertionError(f"the broker ended early:\n{self.output[-1].read_text()}")
                if state in (text := heard.result().decode()):
                    return text

    async def close(self) -> None:
        if self.running is not None:
            await self.kill()
        if self._notify is not None:
            self._notify.close()


@asynccontextmanager
async def new_process(
    folder: Path, *, extra: str = "", command: Sequence[str] | Main = main
) -> AsyncIterator[Process]:
    """A broker that is not yet started, and a sandbox that is."""
    folder.mkdir(mode=0o700, exist_ok=True)
    public_port = free_port()
    sandbox = Sandbox(
        listen=TcpListen("127.0.0.1", free_port()),
        database=folder / "sandbox.db",
        clock=SystemClock(),
        broker_public_url=f"http://127.0.0.1:{public_port}",
    )
    await sandbox.start()
    async with aiohttp.ClientSession() as session:
        process = Process(folder, sandbox, session, free_port(), public_port, extra, command)
        process.write_config()
        try:
            yield process
        finally:
            await process.close()
            await sandbox.stop()
