"""The rescue spools: what a provider issued and the store would not take lies here until it does.

Own files, 0600, fsync. One spool holds renewals, another the grants of installs; they share the folders.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from broker.errors import StartRefused
from broker.files import read_own, write_own
from broker.model import InstallOutcome, PendingGrant, Successor

Record = TypeVar("Record", Successor, PendingGrant)


class Spool(Generic[Record]):
    """Sealed records in files, in the first of several folders that takes them."""

    def __init__(self, folders: Sequence[Path], suffix: str, kind: type[Record]) -> None:
        self._folders, self._suffix = tuple(folders), suffix
        self._kind: type[Record] = kind

    def write(self, record: Record) -> Path | None:
        """Store a sealed record durably; None where no folder takes it. Blocks: call it in a thread."""
        for folder in self._folders:
            with suppress(OSError):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                path = folder / f"{secrets.token_hex(8)}{self._suffix}"
                write_own(path, json.dumps(asdict(record)).encode())
                return path
        return None

    def read(self) -> list[tuple[Path, Record]]:
        """What lies in the spool; files that are not whole are left where they are."""
        return [(path, record) for path in self._files() if (record := self._record_in(path)) is not None]

    def __len__(self) -> int:
        """How many files lie here, whole or not."""
        return len(self._files())

    def records(self) -> list[str]:
        """What lies sealed in the spool; a file that is not whole is an empty record."""
        found: list[str] = []
        for path in self._files():
            if (record := self._record_in(path)) is not None:
                found += filter(None, (record.sealed_access, record.sealed_refresh))
            elif path.exists():
                found.append("")
        return found

    def remove(self, path: Path) -> None:
        """Forget a file whose content has become durable elsewhere."""
        with suppress(OSError):
            path.unlink()

    def remove_those(self, wanted: Callable[[Record], bool]) -> None:
        """Forget the records that `wanted` says yes to. Blocks: call it in a thread."""
        for path, record in self.read():
            if wanted(record):
                self.remove(path)

    def _files(self) -> list[Path]:
        """Raises StartRefused where a folder cannot be listed: it may hold the only copies of token sets."""
        found: list[Path] = []
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

    def _record_in(self, path: Path) -> Record | None:
        """None where the file is not whole."""
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            record: Record = _made(self._kind, json.loads(read_own(path)))
            return record
        return None


def renewals_spool(folders: Sequence[Path]) -> Spool[Successor]:
    """For successors (R6)."""
    return Spool(folders, ".tokens", Successor)


def grants_spool(folders: Sequence[Path]) -> Spool[PendingGrant]:
    """For grants of installs, which were exchanged and could not be held."""
    return Spool(folders, ".grant", PendingGrant)


def _made(kind: Any, members: Mapping[str, Any]) -> Any:
    """The dataclass of these members; raises where they are not of its types: what is stored is not looked at again."""
    types, values = get_type_hints(kind), dict(members)
    for name, value in members.items():
        wanted = types[name]
        if is_dataclass(wanted):
            values[name] = _made(wanted, value)
        elif wanted == InstallOutcome | None:
            values[name] = None if value is None else InstallOutcome.stored(value)
        # JSON knows one kind of number.
        elif not isinstance(value, wanted) and not (type(value) is int and isinstance(0.0, wanted)):
            raise TypeError(name)
    return kind(**values)
