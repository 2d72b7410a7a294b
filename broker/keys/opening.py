"""Reads the master key, unwraps the data keys; makes both for an empty store only."""

import asyncio
import os
import stat
from pathlib import Path

from broker.clock import Clock
from broker.config.settings import CommandKey, FileKey, MasterKey
from broker.errors import StartRefused
from broker.keyring import (
    Keyring,
    Master,
    Purpose,
    WrappedKey,
    WrongMaster,
    new_key,
    new_kid,
    new_master_text,
    parse_master,
)
from broker.store.interface import KeyStore

COMMAND_TIMEOUT = 10.0


async def open_keyring(store: KeyStore, source: MasterKey, clock: Clock) -> Keyring:
    """The ring of this store's keys; raises StartRefused with a sentence that says which key is wrong.

    A missing master key file is created for an empty store, and never over one that holds anything.
    """
    empty = await store.is_empty()
    master = await _read_master(source, may_create=empty)
    if empty:
        await store.add_first_keys([_first(master, purpose, clock.now()) for purpose in Purpose])
    return _ring(master, await store.keys())


def _first(master: Master, purpose: Purpose, at: float) -> WrappedKey:
    return master.wrap(new_key(), kid=new_kid(), purpose=purpose, created_at=at)


def _ring(master: Master, wrapped: list[WrappedKey]) -> Keyring:
    try:
        opened = {key.kid: master.unwrap(key) for key in wrapped}
    except WrongMaster as exc:
        raise StartRefused(f"{exc}; put the right one back, the store is untouched") from None
    active = [key.kid for key in wrapped if key.purpose is Purpose.DATA and key.active]
    index = [key.kid for key in wrapped if key.purpose is Purpose.INDEX]
    if not active or not index:
        raise StartRefused("the store holds records but no keys; restore it from a backup")
    data = {key.kid: opened[key.kid] for key in wrapped if key.purpose is Purpose.DATA}
    return Keyring(active=active[-1], keys=data, index_key=opened[index[0]])


async def _read_master(source: MasterKey, *, may_create: bool) -> Master:
    raw = await (
        _run(source) if isinstance(source, CommandKey) else asyncio.to_thread(_read, source, may_create)
    )
    try:
        return parse_master(raw)
    except ValueError as exc:
        raise StartRefused(f"keys.master: {exc}") from None


def _read(source: FileKey, may_create: bool) -> bytes:
    path = source.path
    if not path.exists():
        if not (may_create and source.created):
            raise StartRefused(
                f"the master key {path} is missing and the store holds what it sealed;"
                " put the key back (a new one would open nothing)"
                if not may_create
                else f"the master key {path} is missing; systemd should have put it there (LoadCredential=)"
            )
        _create(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 and source.created:
        raise StartRefused(f"the master key {path} is open to others (mode {mode:o}); type: chmod 600 {path}")
    try:
        return path.read_bytes()
    except OSError as exc:
        raise StartRefused(f"the master key {path} cannot be read: {exc.strerror}") from None


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(handle, new_master_text().encode())
        os.fsync(handle)
    finally:
        os.close(handle)


async def _run(source: CommandKey) -> bytes:
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT):
            process = await asyncio.create_subprocess_exec(
                *source.argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
    except (OSError, TimeoutError) as exc:
        raise StartRefused(
            f"keys.master: the command {source.argv[0]} failed ({type(exc).__name__})"
        ) from None
    if process.returncode != 0:
        raise StartRefused(f"keys.master: the command {source.argv[0]} ended with {process.returncode}")
    return output
