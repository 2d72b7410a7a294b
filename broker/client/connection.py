"""The parts of a client: the broker's address, the key that authenticates the program, and the clock."""

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
"""The key itself, or a function that returns it, such as one that signs a new JWT each time."""


def read_address(url: str) -> tuple[str, str | None]:
    """Return the base of all URLs, and the path of the Unix socket if it is one; raises ValueError."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path:
            raise ValueError("the path of the Unix socket is missing, as in unix:/run/token-broker/api.sock")
        return "http://broker", "/" + path.lstrip("/") if path.startswith("/") else path
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("the broker's URL holds no user, query or fragment; the key goes into key=")
    # Reading the port raises ValueError if it is wrong.
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("the broker's URL is http://host:port, https://host:port or unix:/path")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", None


class KeySource:
    """The source of the key, which is read for each request, so that a replaced file takes effect immediately."""

    def __init__(self, key: Key | None, file: str | os.PathLike[str] | None) -> None:
        """Take `key`, else `file`, else `$BROKER_KEY`; without any the broker sees our uid on a Unix socket."""
        if key is not None and file is not None:
            raise ValueError("give key or key_file, not both")
        self._key, self._file = key, Path(file) if file is not None else None
        if isinstance(key, str):
            _usable(key, "key")

    def read(self) -> str | None:
        """Return the key, or None if there is none; raises KeyUnreadable, which never quotes it."""
        if callable(self._key):
            return _usable(self._key(), "the result of the key function")
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
        """Return seconds of a clock that counts while the machine is suspended, because tokens expire meanwhile."""
        boot_time = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)  # noqa: TID251 - the client's own clock

    def sleep(self, seconds: float) -> None:
        """Block the thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Suspend the task."""
        await asyncio.sleep(seconds)
