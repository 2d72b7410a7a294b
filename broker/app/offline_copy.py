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
from broker.config.settings import FileKey, Settings
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

    def of(self, check: Check) -> Check:
        """Return the check with the names that the operator knows."""
        detail, mend = check.detail, check.next
        for copy, original in self.originals:
            detail = detail.replace(str(copy), str(original))
            mend = mend and mend.replace(str(copy), str(original))
        return replace(check, detail=detail, next=mend)


@contextmanager
def copied(settings: Settings) -> Iterator[Copy]:
    """Copy the store to a folder of this user's own; raises StartRefused where a broker runs on it."""
    store, master, audit = settings.store.path, settings.master, settings.audit.path
    with ExitStack() as closing:
        if store.parent.exists():
            refuse_unfit(store.parent)
        # The instance lock, if there is one to take. A link that leads nowhere stops a start too.
        if os.path.lexists(store.with_name(store.name + ".lock")):
            closing.callback(os.close, take_lock(store, os.O_RDONLY))
        refuse_vanished(store, outside=settings.store.outside, others=audits_of(settings))
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        own, key, lines = folder / "store" / store.name, folder / "master.key", folder / "audit.jsonl"
        own.parent.mkdir(mode=0o700)
        # The database, and what a killed broker left in its log.
        for suffix in ("", "-wal"):
            if store.with_name(store.name + suffix).exists():
                _copy(store.with_name(store.name + suffix), own.with_name(own.name + suffix))
        originals = [(own, store)]
        if isinstance(master, FileKey):
            originals.append((key, master.path))
            if master.created and not master.path.exists():
                # A key that the first start would make is made next to the copy.
                master = FileKey(key)
        if audit is not None:
            originals.append((lines, audit))
        copy = replace(
            settings,
            store=replace(settings.store, path=own),
            master=master,
            audit=replace(settings.audit, path=audit and lines),
        )
        yield Copy(copy, tuple(originals))


def _copy(original: Path, own: Path) -> None:
    try:
        with open(open_own(original, os.O_RDONLY), "rb") as reading, replacing(own) as writing:  # noqa: PTH123 - a handle
            shutil.copyfileobj(reading, writing)
    except OSError as exc:
        raise StartRefused(f"the store {original} cannot be read: {exc.strerror}") from None
