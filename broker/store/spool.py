"""The rescue spools: what a provider issued and the store would not take lies here until it does.

Own files, 0600, fsync. One spool holds renewals, another the grants of installs; they share the folders.
"""

import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from broker.files import write_own
from broker.model import InstallOutcome, PendingGrant, PendingInstall, Ref, Successor

Record = TypeVar("Record", Successor, PendingGrant)


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
        found = []
        for path in self._files():
            with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
                found.append((path, self._parse(json.loads(path.read_bytes()))))
        return found

    def __len__(self) -> int:
        """How many files lie here, whole or not."""
        return len(self._files())

    def records(self) -> list[str]:
        """What lies sealed in the spool; a file that is not whole is an empty record."""
        return [one for path in self._files() for one in self._sealed_in(path)]

    def _files(self) -> list[Path]:
        folders = [folder for folder in self._folders if folder.is_dir()]
        return [path for folder in folders for path in sorted(folder.glob(f"*{self._suffix}"))]

    def _sealed_in(self, path: Path) -> list[str]:
        try:
            record = self._parse(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return [""]
        return [one for one in (record.sealed_access, record.sealed_refresh) if one]

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
    return Successor(**{**members, "parent": Ref(**members["parent"])})


def _grant(members: dict[str, Any]) -> PendingGrant:
    install = members["install"]
    outcome = None if install["outcome"] is None else InstallOutcome.stored(install["outcome"])
    return PendingGrant(**{**members, "install": PendingInstall(**{**install, "outcome": outcome})})
