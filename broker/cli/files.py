"""Files with secrets that are read: open to nobody else."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from broker.cli.failed import Failed
from broker.files import exposure


def read_objects(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """JSON lines, or a JSON list of objects, each with its number; `-` is standard input. Raises Failed."""
    name = "standard input" if str(file) == "-" else str(file)
    try:
        text = _read_private(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Failed(f"{name} is not UTF-8 text.") from None
    except OSError as exc:
        raise Failed(f"{name} cannot be read: {exc.strerror}.") from None
    found = _objects(text)
    wrong = [number for number, value in found if not isinstance(value, dict)]
    if wrong:
        what = "entry" if text.lstrip().startswith("[") else "line"
        raise Failed(f"{name}: {what} {wrong[0]} is not a JSON object with unique members; nothing was sent.")
    return [(number, value) for number, value in found if isinstance(value, dict)]


def _read_private(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        # A pipe has no readers but its own; a file has those of its mode.
        if stat.S_ISREG(status.st_mode) and (exposed := exposure(file, opened.fileno())):
            raise Failed(f"{file} holds secrets and others may read it; type: {exposed.command}")
        return opened.read()


def _objects(text: str) -> list[tuple[int, object]]:
    if text.lstrip().startswith("["):
        whole = _parsed(text)
        return list(enumerate(whole, 1)) if isinstance(whole, list) else [(1, None)]
    lines = enumerate(text.split("\n"), 1)
    return [(number, _parsed(line)) for number, line in lines if line.strip()]


def _parsed(text: str) -> object:
    """None for what is not JSON; the error would quote it."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    members = dict(pairs)
    return members if len(members) == len(pairs) else None
