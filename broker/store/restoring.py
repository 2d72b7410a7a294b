"""Puts a backup in the place of the store; what was there is kept beside it."""

import os
import secrets
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from broker.store.backup import Examined, NotAStore, copy_whole, examine, say
from broker.store.sqlite import sync_folder, take_lock

BESIDE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put where."""

    found: Examined
    kept: Path | None
    """The store that was there before."""


def restore(source: Path, store: Path, *, force: bool, at: float) -> Restored:
    """Make a copy of `source` the store; raises NotAStore, StartRefused where a broker runs on it.

    A store that holds accounts, or cannot be read, is replaced with `force` only, and kept beside the new one.
    Whenever it is interrupted, a whole store is in place: the old one or the new one.
    """
    found = examine(source)
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = take_lock(store)
    try:
        if store.exists() and not force:
            _require_empty(store)
        unfinished = store.with_name(store.name + ".restoring")
        for left in (unfinished, *(unfinished.with_name(unfinished.name + end) for end in BESIDE)):
            left.unlink(missing_ok=True)
        copy_whole(source, unfinished)
        # It must not pass for the store whose place it takes (R13), nor for its source.
        say(unfinished, incarnation=f"restored-{secrets.token_hex(8)}", restored_at=str(at))
        examine(unfinished)
        _give_to_owner(unfinished, store.parent)
        kept = _keep(store, at) if store.exists() else None
        unfinished.rename(store)
        sync_folder(store.parent)
    finally:
        os.close(lock)
    _give_to_owner(store.with_name(store.name + ".lock"), store.parent)
    return Restored(found, kept)


def _require_empty(store: Path) -> None:
    if store.stat().st_size == 0:
        return
    try:
        held = examine(store)
    except NotAStore as exc:
        raise NotAStore(f"{exc}. With --force it is replaced, and kept beside the new one") from None
    if not held.is_empty:
        raise NotAStore(
            f"the store {store} holds {held.accounts} accounts; with --force it is replaced, and kept"
            " beside the new one"
        )


def _keep(store: Path, at: float) -> Path:
    """A second name for what is in place, with all that its log holds; none of its log may meet the new store."""
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = store.with_name(f"{store.name}.replaced-{stamp}-{secrets.token_hex(2)}")
    with suppress(sqlite3.Error), closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    for end in BESIDE:
        # Still there where it is too damaged to be folded in.
        with suppress(FileNotFoundError):
            store.with_name(store.name + end).rename(kept.with_name(kept.name + end))
    os.link(store, kept)
    return kept


def _give_to_owner(path: Path, folder: Path) -> None:
    """What root restores must be the service's."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
