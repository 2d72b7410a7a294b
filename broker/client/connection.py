"""What a client is made from: where the broker is, the key that a program shows it, and the time."""

import asyncio
import codecs
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from .errors import KeyUnreadable

ENVIRONMENT = "BROKER_KEY"
USABLE = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)
Key = str | Callable[[], str]
"""The key itself, or a function that gives it: a JWT that the program signs anew each time."""


def read_address(url: str) -> tuple[str, str | None]:
    """Return what paths are put behind, and the path of the Unix socket if it is one; raises ValueError."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path:
            raise ValueError("the path of the Unix socket is missing, as in unix:/run/token-broker/api.sock")
        return "http://broker", "/" + path.lstrip("/") if path.startswith("/") else path
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("the broker's URL holds no user, query or fragment; the key goes into key=")
    # Its port is read here, too, since that is where a wrong one is told.
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("the broker's URL is http://host:port, https://host:port or unix:/path")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", None


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
        if self._file is None:
            found = os.environ.get(ENVIRONMENT)  # noqa: TID251 - the program's environment, not the broker's
            return None if found is None else _usable(found.strip(), ENVIRONMENT)
        try:
            found = self._file.read_bytes().removeprefix(codecs.BOM_UTF8).decode("ascii").strip()
        except OSError as exc:
            raise KeyUnreadable(f"the key cannot be read from {self._file}: {exc.strerror}") from None
        except UnicodeDecodeError:
            raise KeyUnreadable(f"{self._file} holds no key: a key is ASCII") from None
        return _usable(found, str(self._file))


def _usable(key: str, where: str) -> str:
    if USABLE.fullmatch(key) is None:
        raise KeyUnreadable(f"{where} holds no key: one line of printable ASCII without spaces is expected")
    return key


class Clock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Where there is such a clock it goes on while the machine is suspended: tokens do not live longer for it."""
        boot_time = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)  # noqa: TID251 - the client's own clock

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
