"""The rescue spool: a token set that the store would not take lies here until it does. Own files, 0600, fsync."""

import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from broker.model import Ref, Successor

SUFFIX = ".tokens"


class Spool:
    """Sealed successors in files, in the first of several folders that takes them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)

    def write(self, successor: Successor) -> Path | None:
        """Store a sealed successor durably; None where no folder takes it. Blocks: call it in a thread."""
        for folder in self._folders:
            with suppress(OSError):
                return _write(folder, json.dumps(asdict(successor)).encode())
        return None

    def read(self) -> list[tuple[Path, Successor]]:
        """What lies in the spool; files that are not whole are left where they are."""
        found = []
        for folder in self._folders:
            for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
                with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
                    found.append((path, _parse(path.read_bytes())))
        return found

    def remove(self, path: Path) -> None:
        """Forget a file whose content has become durable elsewhere."""
        with suppress(OSError):
            path.unlink()


def _write(folder: Path, content: bytes) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{secrets.token_hex(8)}{SUFFIX}"
    unfinished = path.with_suffix(".part")
    handle = os.open(unfinished, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    try:
        if os.write(handle, content) != len(content):
            raise OSError("short write")
        os.fsync(handle)
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path


def _parse(content: bytes) -> Successor:
    members = json.loads(content)
    return Successor(**{**members, "parent": Ref(**members["parent"])})
