"""Runs `alerts.command` for an event: no shell, JSON on standard input, nothing inherited, a time limit."""

import asyncio
import hashlib
import os
import signal
import tempfile
from contextlib import closing, suppress
from typing import BinaryIO

from broker.alerts.interface import Alert, Delivered, Failed, Outcome
from broker.clock import Clock, within

TIME_LIMIT = 30.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8"}
"""All that the command gets: the broker's own may hold secrets."""
MOST_HEARD = 4096
MOST_SAID = 200


class Command:
    """The program that the configuration names."""

    def __init__(self, argv: tuple[str, ...], *, clock: Clock) -> None:
        self._argv, self._clock = argv, clock
        self._running: set[asyncio.subprocess.Process] = set()

    @property
    def target(self) -> str:
        return hashlib.sha256("\0".join(self._argv).encode()).hexdigest()

    async def deliver(self, alert: Alert) -> Outcome:
        try:
            # A file and not a pipe: a program that does not read its input cannot hold us up.
            with tempfile.TemporaryFile() as body, closing(_Ear()) as ear:
                body.write(alert.body)
                body.seek(0)
                return await self._run(body, ear)
        except (OSError, ValueError) as exc:
            return Failed(f"cannot be run ({type(exc).__name__})")

    def hurry(self) -> None:
        for process in self._running:
            _kill(process)

    async def _run(self, body: BinaryIO, ear: "_Ear") -> Outcome:
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=body,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=ear.write_end,
            env=ENVIRONMENT,
            cwd="/",
            # Its own group, so that its children end with it.
            start_new_session=True,
        )
        self._running.add(process)
        ended = asyncio.ensure_future(process.wait())
        in_time = False
        try:
            in_time = await within(self._clock, TIME_LIMIT, ended)
        finally:
            self._running.discard(process)
            if not in_time:
                _kill(process)
                await asyncio.shield(ended)
        if not in_time:
            return Failed(f"ran longer than {TIME_LIMIT:.0f} s and was killed")
        return Delivered() if process.returncode == 0 else Failed(_told(process.returncode, ear.heard()))


class _Ear:
    """A pipe whose reader keeps the first bytes and throws away the rest, so that nobody blocks on it."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        self._heard = bytearray()
        os.set_blocking(self._read_end, False)
        asyncio.get_running_loop().add_reader(self._read_end, self._listen)

    def heard(self) -> str:
        self._listen()
        return self._heard.decode("utf-8", "replace")

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self.write_end)
        os.close(self._read_end)

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            chunk = os.read(self._read_end, MOST_HEARD)
            self._heard += chunk[: MOST_HEARD - len(self._heard)]


def _told(code: int | None, heard: str) -> str:
    said = " ".join("".join(letter if letter.isprintable() else " " for letter in heard).split())
    return f"exit {code}: {said[:MOST_SAID]}" if said else f"exit {code}"


def _kill(process: asyncio.subprocess.Process) -> None:
    """The whole group: what the program started goes with it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
