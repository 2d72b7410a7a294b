"""The key that a program shows the broker: given, from `BROKER_KEY`, or from a file that others replace."""

import codecs
import os
import re
from collections.abc import Callable
from pathlib import Path

from broker.client.errors import KeyUnreadable

ENVIRONMENT = "BROKER_KEY"
USABLE = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)
Key = str | Callable[[], str]
"""The key itself, or a function that gives it: a JWT that the program signs anew each time."""


class KeySource:
    """Gives the key each time the broker is asked, so that a replaced file is taken at once."""

    def __init__(self, key: Key | None, file: str | os.PathLike[str] | None) -> None:
        """First that is given: `key`, `file`, `BROKER_KEY`; none: a Unix socket tells the broker our uid."""
        if key is not None and file is not None:
            raise ValueError("give key or key_file, not both")
        self._key, self._file = key, Path(file) if file is not None else None
        if isinstance(key, str):
            _usable(key, "key")

    def read(self) -> str | None:
        """Raises KeyUnreadable, which never quotes it."""
        if callable(self._key):
            return _usable(self._key(), "what the key function gave")
        if self._key is not None:
            return self._key
        if self._file is not None:
            return self._from_file(self._file)
        found = os.environ.get(ENVIRONMENT)  # noqa: TID251 - the program's environment, not the broker's
        return None if found is None else _usable(found.strip(), ENVIRONMENT)

    def _from_file(self, path: Path) -> str:
        try:
            return _usable(path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("ascii").strip(), str(path))
        except OSError as exc:
            raise KeyUnreadable(f"the key cannot be read from {path}: {exc.strerror}") from None
        except UnicodeDecodeError:
            raise KeyUnreadable(f"{path} holds no key: a key is ASCII") from None


def _usable(key: str, where: str) -> str:
    if USABLE.fullmatch(key) is None:
        raise KeyUnreadable(f"{where} holds no key: one line of printable ASCII without spaces is expected")
    return key
