"""A copy of what a broker would open, so that a look changes nothing: no store, key, audit or migration is made."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from broker.admin.checks import Check
from broker.app.opening import audits_of
from broker.config.settings import FileKey, MasterKey, Settings
from broker.errors import StartRefused
from broker.files import open_own, replacing
from broker.store.incarnation import refuse_vanished
from broker.store.sqlite import refuse_unfit, take_lock


@dataclass(frozen=True, slots=True)
class Copy:
    """Settings that lead to copies, and the way back from their names."""

    settings: Settings
    originals: tuple[tuple[Path, Path], ...]
    """Of each copy the original."""

    def named(self, text: str) -> str:
        """`text` with the names that the operator knows."""
        for copy, original in self.originals:
            text = text.replace(str(copy), str(original))
        return text

    def of(self, check: Check) -> Check:
        return replace(check, detail=self.named(check.detail), next=check.next and self.named(check.next))


@contextmanager
def copied(settings: Settings) -> Iterator[Copy]:
    """The store as it lies there, in a folder of this user's own; raises StartRefused where a broker runs on it."""
    with ExitStack() as closing:
        store = settings.store.path
        if store.parent.exists():
            refuse_unfit(store.parent)
        closing.enter_context(_locked(store))
        refuse_vanished(store, outside=settings.store.outside, others=audits_of(settings))
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        own = folder / "store" / store.name
        own.parent.mkdir(mode=0o700)
        _copy(store, own)
        key, audit = folder / "master.key", folder / "audit.jsonl"
        yield Copy(
            settings=replace(
                settings,
                store=replace(settings.store, path=own),
                master=_absent_at(settings.master, key),
                audit=replace(settings.audit, path=settings.audit.path and audit),
            ),
            originals=(
                (own, store),
                *((key, master.path) for master in [settings.master] if isinstance(master, FileKey)),
                *((audit, path) for path in [settings.audit.path] if path),
            ),
        )


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """The instance lock, where there is one to take."""
    # A link that leads nowhere stops a start too.
    if not os.path.lexists(store.with_name(store.name + ".lock")):
        yield
        return
    handle = take_lock(store, os.O_RDONLY)
    try:
        yield
    finally:
        os.close(handle)


def _copy(store: Path, copy: Path) -> None:
    """The database and what a killed broker left in its log."""
    for suffix in ("", "-wal"):
        original = store.with_name(store.name + suffix)
        if not original.exists():
            continue
        try:
            own = copy.with_name(copy.name + suffix)
            with open(open_own(original, os.O_RDONLY), "rb") as reading, replacing(own) as writing:  # noqa: PTH123 - a handle
                shutil.copyfileobj(reading, writing)
        except OSError as exc:
            raise StartRefused(f"the store {original} cannot be read: {exc.strerror}") from None


def _absent_at(master: MasterKey, path: Path) -> MasterKey:
    """A key that the first start would make is made at `path` instead."""
    if isinstance(master, FileKey) and master.created and not master.path.exists():
        return FileKey(path)
    return master
