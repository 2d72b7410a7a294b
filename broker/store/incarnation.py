"""R13: one owner of the data. A copied or restored store is noticed, and renews nothing until it is adopted.

A PostgreSQL database is known by its server's identity and its own number. Of a SQLite file each start writes a
random incarnation first into a file beside the store, then with the store's inode into the store. A copy lacks the
file, or lists another incarnation, or lies at another inode. A snapshot of the whole disk is not noticed.
"""

import json
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from broker.store.keys_interface import KeyStore

KEPT = 2
META = "incarnation"


class Ownership(Protocol):
    """Whether this store is the original."""

    async def is_copy(self) -> bool:
        """Whether the store was copied or restored from somewhere; a new one was not."""
        ...

    async def begin(self) -> None:
        """Make it the original: at each start of an owned store, and when a copy is adopted."""
        ...


class ServerIdentity:
    """Which database of which server this store says it lies in, against where it does."""

    def __init__(self, *, store: KeyStore, identity: Callable[[], Awaitable[str]]) -> None:
        self._store, self._identity = store, identity

    async def is_copy(self) -> bool:
        written = await self._store.meta(META)
        if written is None:
            return not await self._store.has_no_accounts()
        return written != await self._identity()

    async def begin(self) -> None:
        await self._store.set_meta(META, await self._identity())


class Incarnation:
    """Who this store says it is, against who the file beside it says it is."""

    def __init__(self, *, store: KeyStore, path: Path) -> None:
        self._store, self._path = store, path
        self._sidecar = path.with_name(path.name + ".incarnation")

    async def is_copy(self) -> bool:
        """Whether the store was copied or restored from somewhere; a new one was not."""
        written = await self._store.meta(META)
        if written is None:
            return not await self._store.has_no_accounts()
        incarnation, _, inode = written.partition(":")
        return incarnation not in self._listed() or inode != str(self._path.stat().st_ino)

    async def begin(self) -> None:
        """Write a new incarnation: at each start of an owned store, and when a copy is adopted."""
        incarnation = secrets.token_hex(16)
        self._write([*self._listed(), incarnation][-KEPT:])
        await self._store.set_meta(META, f"{incarnation}:{self._path.stat().st_ino}")

    def _listed(self) -> list[str]:
        with suppress(OSError, ValueError):
            listed = json.loads(self._sidecar.read_text())
            if isinstance(listed, list):
                return [str(one) for one in listed]
        return []

    def _write(self, listed: list[str]) -> None:
        unfinished = self._sidecar.with_name(self._sidecar.name + ".part")
        handle = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            os.write(handle, json.dumps(listed).encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        unfinished.rename(self._sidecar)
        folder = os.open(self._sidecar.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
