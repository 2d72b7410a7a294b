"""R13: recognizes a copied or restored store, which renews nothing until it is adopted.

A PostgreSQL database is identified by its server's id and its own number. A SQLite store contains the incarnation of
its last start, and the inode and birth time of its file and of its sidecar, which no copy shares. The sidecar next to
it lists the incarnation, and so does a witness outside the folder if systemd provides a place for one. A missing
witness proves nothing; one that contradicts the store proves a copy. A snapshot of the whole disk is not recognized.
"""

import ctypes
import json
import os
import secrets
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from broker.errors import StartRefused, StorageUnavailable
from broker.files import read_own, write_own
from broker.store.keys import KeyStore

META = "incarnation"
FILES = "incarnation_files"
"""The same incarnation, and the identities of the two files; older programs ignore it."""
STATX_BTIME = 0x800
STATX_SIZE = 256
MASK, BIRTH = struct.Struct("=I"), struct.Struct("=qI")
BIRTH_PLACE = 0x50
AT_FDCWD = -100


class ServerIdentity:
    """Recognizes a copied PostgreSQL database by the server id and database number that it stores."""

    def __init__(self, *, store: KeyStore, identity: Callable[[], Awaitable[str]]) -> None:
        self._store, self._identity = store, identity

    async def is_copy(self) -> bool:
        """Return whether the store was copied or restored from another database; a new one was not."""
        written = await self._store.meta(META)
        if written is None:
            return not await self._store.has_no_accounts()
        return written != await self._identity()

    async def begin(self) -> None:
        """Store this database's identity, at each start of an original store and when a copy is adopted."""
        await self._store.set_meta(META, await self._identity())


class Incarnation:
    """Recognizes a copied SQLite store by its incarnation, which files outside the store list too."""

    def __init__(self, *, store: KeyStore, path: Path, outside: Path | None = None) -> None:
        self._store, self._path = store, path
        self._sidecar = sidecar_of(path)
        self._witness = witness_of(path, outside)

    async def is_copy(self) -> bool:
        """Return whether the store was copied or restored from elsewhere; a new one was not."""
        written = await self._store.meta(META)
        if written is None:
            return not await self._store.has_no_accounts()
        incarnation, _, inode = written.partition(":")
        listed, witness = _listed(self._sidecar), _listed(self._witness)
        if incarnation not in listed or inode != str(self._path.stat().st_ino):
            return True
        # An older program writes no witness, but lists the previous incarnation in the sidecar.
        if witness and not set(witness) & set(listed):
            return True
        files: object = None
        with suppress(ValueError, RecursionError):
            files = json.loads(await self._store.meta(FILES) or "{}")
        if not isinstance(files, dict) or files.get("of") != incarnation:
            return False
        # A copy if the store or its sidecar is another file than the one whose identity is stored.
        found = {"store": self._path} | ({"sidecar": self._sidecar} if listed == [incarnation] else {})
        return any(_contradict(files.get(name), _identity(path)) for name, path in found.items())

    async def begin(self) -> None:
        """Write a new incarnation, at each start of an original store and when a copy is adopted.

        Until the store has it the files list the previous one too, so that a crash at any point leaves an original.
        Raises StorageUnavailable, and then the previous one stays valid.
        """
        before = (await self._store.meta(META) or "").partition(":")[0]
        incarnation = secrets.token_hex(16)
        both, alone = [*filter(None, [before]), incarnation], [incarnation]
        # The final sidecar, whose identity is stored before it is renamed to its place.
        settled = self._sidecar.with_name(self._sidecar.name + ".next")
        try:
            self._write_witness(both)
            write_own(self._sidecar, json.dumps(both).encode())
            write_own(settled, json.dumps(alone).encode())
            files = {"of": incarnation, "store": _identity(self._path), "sidecar": _identity(settled)}
            await self._store.set_meta(FILES, json.dumps(files))
            await self._store.set_meta(META, f"{incarnation}:{self._path.stat().st_ino}")
            settled.replace(self._sidecar)
            self._write_witness(alone)
        except OSError as exc:
            file = exc.filename or self._sidecar
            raise StorageUnavailable(f"{file} cannot be written: {exc.strerror}") from None

    def _write_witness(self, incarnations: list[str]) -> None:
        if self._witness is None:
            return
        try:
            write_own(self._witness, json.dumps(incarnations).encode())
        except OSError:
            # An old witness would contradict the store at the next start.
            with suppress(FileNotFoundError, NotADirectoryError):
                self._witness.unlink()


Ownership = ServerIdentity | Incarnation
"""Tells whether the store is the original, and makes it the original when a copy is adopted."""


def sidecar_of(store: Path) -> Path:
    """Return the path of the file next to a store that lists its incarnation."""
    return store.with_name(store.name + ".incarnation")


def witness_of(store: Path, outside: Path | None) -> Path | None:
    """Return the path of the store's file in the folder for witnesses, or None if there is no such folder."""
    if outside is None:
        return None
    return outside / f"incarnation-{sha256(os.fsencode(store.absolute())).hexdigest()[:16]}"


def refuse_vanished(store: Path, *, outside: Path | None, others: Sequence[Path] = ()) -> None:
    """Raise StartRefused if the store is missing, but one of its other files, or one of `others`, shows it existed."""
    try:
        if store.stat().st_size:
            return
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise StartRefused(f"the store {store} cannot be opened: {exc.strerror}") from None
    witnesses = (sidecar_of(store), witness_of(store, outside))
    found = [*others, *(one for one in witnesses if one is not None and one.exists())]
    if found:
        named = " and ".join(map(str, found))
        raise StartRefused(
            f"there is no store {store} any more, and {named} tell{'s' if len(found) == 1 else ''} of one; put it"
            f" back, or type: broker restore BACKUP. For a new, empty store move {named} away"
        )


def birth_of(path: Path) -> str | None:
    """Return when the file was created, in seconds with nanoseconds; None if the system does not know."""
    buffer = ctypes.create_string_buffer(STATX_SIZE)
    try:
        failed = ctypes.CDLL(None).statx(AT_FDCWD, os.fsencode(path), 0, STATX_BTIME, buffer)
    except (AttributeError, OSError):
        return None
    [known] = MASK.unpack_from(buffer.raw)
    if failed or not known & STATX_BTIME:
        return None
    seconds, nanoseconds = BIRTH.unpack_from(buffer.raw, BIRTH_PLACE)
    return f"{seconds}.{nanoseconds:09d}"


def _identity(path: Path) -> list[str | None]:
    with suppress(FileNotFoundError):
        return [str(path.stat().st_ino), birth_of(path)]
    return [None, None]


def _contradict(named: object, found: Sequence[str | None]) -> bool:
    """Return whether two identities are of different files; a part that is unknown proves nothing."""
    pairs = zip(named, found, strict=False) if isinstance(named, list) else ()
    return any(a is not None and b is not None and a != b for a, b in pairs)


def _listed(path: Path | None) -> list[str]:
    """Return the incarnations in a sidecar or witness; none if it is missing or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        listed = json.loads(read_own(path)) if path else []
        if isinstance(listed, list):
            return [str(one) for one in listed]
    return []
