"""Puts a backup in the place of the store; what was there is kept beside it."""

import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from broker.files import is_foreign, open_own, replacing
from broker.store.backup import Examined, NotAStore, copy_whole, examine, say
from broker.store.sqlite import BESIDE, take_lock


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put where."""

    found: Examined
    kept: Path | None
    """The store that was there before."""


def restore(source: Path, store: Path, *, force: bool, at: float) -> Restored:
    """Make a copy of `source` the store; raises NotAStore, StartRefused where a broker runs on it, OSError.

    A store that holds accounts, or cannot be read, is replaced with `force` only, and kept beside the new one.
    Whenever it is interrupted, a whole store is in place: the old one or the new one.
    """
    found = examine(source)
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = take_lock(store)
    try:
        with _private_folder(store) as private:
            old = _copied(store, private / "old.db")
            if old is not None and not force:
                _require_empty(old, store)
            new = _prepared(source, private / "new.db", at)
            kept = None if old is None else _keep(old, store, at)
            _put(new, store)
    except sqlite3.Error as exc:
        raise NotAStore(f"{source} could not be copied: {exc}") from None
    finally:
        os.close(lock)
    return Restored(found, kept)


@contextmanager
def _private_folder(store: Path) -> Iterator[Path]:
    """A folder for unfinished copies, in which no other user can lay links that SQLite would follow."""
    for left in store.parent.glob(f"{store.name}.restoring*"):
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    beside = None if is_foreign(store.parent) else store.parent
    with tempfile.TemporaryDirectory(prefix=f"{store.name}.restoring-", dir=beside) as folder:
        yield Path(folder)


def _copied(store: Path, copy: Path) -> Path | None:
    """The store that is in place with its log, copied byte by byte; None where there is none."""
    for end in ("", "-wal", "-journal"):
        try:
            reading = open_own(store.with_name(store.name + end), os.O_RDONLY)
        except FileNotFoundError:
            if not end:
                return None
            continue
        with open(reading, "rb") as old, replacing(copy.with_name(copy.name + end)) as new:  # noqa: PTH123 - a handle
            shutil.copyfileobj(old, new)
    return copy


def _prepared(source: Path, new: Path, at: float) -> Path:
    copy_whole(source, new)
    # It must not pass for the store whose place it takes (R13), nor for its source.
    say(new, incarnation=f"restored-{secrets.token_hex(8)}", restored_at=str(at))
    examine(new)
    return new


def _put(new: Path, store: Path) -> None:
    with new.open("rb") as reading, replacing(store) as writing:
        shutil.copyfileobj(reading, writing)


def _require_empty(copy: Path, store: Path) -> None:
    if copy.stat().st_size == 0:
        return
    try:
        held = examine(copy)
    except NotAStore as exc:
        why = str(exc).replace(str(copy), str(store))
        raise NotAStore(f"{why}. With --yes it is replaced, and kept beside the new one") from None
    if not held.is_empty:
        raise NotAStore(
            f"the store {store} holds {held.accounts} accounts; with --yes it is replaced, and kept"
            " beside the new one"
        )


def _keep(copy: Path, store: Path, at: float) -> Path:
    """A second name for what is in place, with all that its log holds; none of its log may meet the new store."""
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = store.with_name(f"{store.name}.replaced-{stamp}-{secrets.token_hex(2)}")
    beside = [end for end in BESIDE if store.with_name(store.name + end).exists()]
    with suppress(sqlite3.Error), closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        if beside:
            # The same accounts in one file: until the new store is in place, this is whole without its log.
            _put(copy, store)
            for end in beside:
                store.with_name(store.name + end).unlink(missing_ok=True)
    for end in BESIDE:
        # Still there where it is too damaged to be folded in.
        with suppress(FileNotFoundError):
            store.with_name(store.name + end).rename(kept.with_name(kept.name + end))
    os.link(store, kept)
    return kept
