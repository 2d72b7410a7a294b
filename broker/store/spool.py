"""The rescue spools: what a provider issued and the store would not take lies here until it does.

Own files, 0600, fsync. One spool holds renewals, another the grants of installs; they share the folders.
"""

import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from broker.errors import StartRefused
from broker.files import read_own, write_own
from broker.model import InstallOutcome, PendingGrant, PendingInstall, Ref, Successor

Record = TypeVar("Record", Successor, PendingGrant)
Checked = TypeVar("Checked", Ref, Successor, PendingInstall, PendingGrant)


class Spool(Generic[Record]):
    """Sealed records in files, in the first of several folders that takes them."""

    def __init__(
        self, folders: Sequence[Path], suffix: str, parse: Callable[[dict[str, Any]], Record]
    ) -> None:
        self._folders, self._suffix = tuple(folders), suffix
        self._parse: Callable[[dict[str, Any]], Record] = parse

    def write(self, record: Record) -> Path | None:
        """Store a sealed record durably; None where no folder takes it. Blocks: call it in a thread."""
        for folder in self._folders:
            with suppress(OSError):
                return _write(folder, self._suffix, json.dumps(asdict(record)).encode())
        return None

    def read(self) -> list[tuple[Path, Record]]:
        """What lies in the spool; files that are not whole are left where they are."""
        records = [(path, self._record_in(path)) for path in self._files()]
        return [(path, record) for path, record in records if record is not None]

    def __len__(self) -> int:
        """How many files lie here, whole or not."""
        return len(self._files())

    def records(self) -> list[str]:
        """What lies sealed in the spool; a file that is not whole is an empty record."""
        return [one for path in self._files() for one in self._sealed_in(path)]

    def _files(self) -> list[Path]:
        """Raises StartRefused where a folder cannot be listed: it may hold the only copies of token sets."""
        found = []
        for folder in self._folders:
            try:
                found += sorted(one for one in folder.iterdir() if one.name.endswith(self._suffix))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                raise StartRefused(
                    f"the spool {folder} cannot be read ({exc.strerror}); give it to the broker's user"
                ) from None
        return found

    def _sealed_in(self, path: Path) -> list[str]:
        record = self._record_in(path)
        if record is None:
            return [""] if path.exists() else []
        return [one for one in (record.sealed_access, record.sealed_refresh) if one]

    def _record_in(self, path: Path) -> Record | None:
        """None where the file is not whole."""
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            return self._parse(json.loads(read_own(path)))
        return None

    def remove(self, path: Path) -> None:
        """Forget a file whose content has become durable elsewhere."""
        with suppress(OSError):
            path.unlink()

    def remove_those(self, wanted: Callable[[Record], bool]) -> None:
        """Forget the records that `wanted` says yes to. Blocks: call it in a thread."""
        for path, record in self.read():
            if wanted(record):
                self.remove(path)


def renewals_spool(folders: Sequence[Path]) -> Spool[Successor]:
    """For successors (R6)."""
    return Spool(folders, ".tokens", _successor)


def grants_spool(folders: Sequence[Path]) -> Spool[PendingGrant]:
    """For grants of installs, which were exchanged and could not be held."""
    return Spool(folders, ".grant", _grant)


def _write(folder: Path, suffix: str, content: bytes) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{secrets.token_hex(8)}{suffix}"
    write_own(path, content)
    return path


def _successor(members: dict[str, Any]) -> Successor:
    return _typed(Successor(**{**members, "parent": _typed(Ref(**members["parent"]))}))


def _grant(members: dict[str, Any]) -> PendingGrant:
    install = members["install"]
    outcome = None if install["outcome"] is None else InstallOutcome.stored(install["outcome"])
    return _typed(
        PendingGrant(**{**members, "install": _typed(PendingInstall(**{**install, "outcome": outcome}))})
    )


def _typed(record: Checked) -> Checked:
    """`record`, if every field is of its type; raises TypeError. What is stored is not looked at again."""
    types = get_type_hints(type(record))
    for field in fields(record):
        value, wanted = getattr(record, field.name), types[field.name]
        # JSON knows one kind of number.
        if not isinstance(value, wanted) and not (type(value) is int and isinstance(0.0, wanted)):
            raise TypeError(field.name)
    return record
