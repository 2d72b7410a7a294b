"""Reads a master key from a file, a systemd credential or a command; makes a missing file for an empty store only."""

import asyncio
from pathlib import Path

import structlog

from broker.config.secrets import mode_problem
from broker.config.settings import CommandKey, FileKey, MasterKey
from broker.errors import StartRefused
from broker.files import write_own
from broker.keyring import Master, new_master_text, parse_master

log = structlog.get_logger()
COMMAND_TIMEOUT = 10.0


async def read_master(
    source: MasterKey, *, key: str, may_create: bool = False, timeout: float = COMMAND_TIMEOUT
) -> Master:
    """The master key that the configuration names at `key`; raises StartRefused with what to do."""
    raw = await (
        _run(source, key, timeout)
        if isinstance(source, CommandKey)
        else asyncio.to_thread(_read, source, key, may_create)
    )
    try:
        return parse_master(raw)
    except ValueError as exc:
        raise StartRefused(f"{key}: {exc}") from None


def _read(source: FileKey, key: str, may_create: bool) -> bytes:
    path = source.path
    if not path.exists():
        if not (may_create and source.created):
            raise StartRefused(
                f"{key}: the master key {path} is missing and the store holds what it sealed;"
                " put the key back (a new one would open nothing)"
                if not may_create
                else f"{key}: the master key {path} is missing; systemd should have put it there (LoadCredential=)"
            )
        _create(path)
    try:
        if not path.is_file():
            raise StartRefused(f"{key}: the master key {path} is no file; put the key there")
        if source.created and (problem := mode_problem(path)):
            exposed, is_refused = problem
            if is_refused:
                raise StartRefused(f"{key}: the master key {path} is {exposed}")
            log.warning("secret.readable", file=str(path), mode=f"{exposed.mode:o}")
        return path.read_bytes()
    except OSError as exc:
        raise StartRefused(f"{key}: the master key {path} cannot be read: {exc.strerror}") from None


def _create(path: Path) -> None:
    """Durable before anything is sealed under it: a store whose key a power cut took is lost."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_own(path, new_master_text().encode())


async def _run(source: CommandKey, key: str, timeout: float) -> bytes:
    name = source.argv[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *source.argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as exc:
        raise StartRefused(f"{key}: the command {name} failed ({type(exc).__name__})") from None
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise StartRefused(f"{key}: the command {name} has not ended within {timeout:g} s") from None
    if process.returncode != 0:
        raise StartRefused(f"{key}: the command {name} ended with {process.returncode}")
    return output
