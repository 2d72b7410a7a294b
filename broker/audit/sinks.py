"""The places that audit lines are written to: files that are rotated each day or by size, or the journal."""

import fcntl
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

import structlog

from broker.audit.lines import Head, parse_line
from broker.errors import StartRefused
from broker.files import NOT_OURS, exposure, open_own

log = structlog.get_logger()
DAY = 86400.0
MOST_BYTES = 64 * 1024 * 1024
TAIL = 64 * 1024
BLOCK = 64 * 1024
AT = re.compile(rb'"at":"(\d{4}-\d{2}-\d{2})T')
HOPELESS = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""Errors that waiting does not mend."""
JOURNAL = "/run/systemd/journal/socket"
JOURNAL_PATIENCE = 2.0
"""Seconds that a full queue of the journal is waited for."""
FIELDS = (
    b"PRIORITY=6\nSYSLOG_IDENTIFIER=token-broker\nTOKEN_BROKER_AUDIT=1\n"
    # `journalctl -u` believes it of root, whose commands write to the chain while the service is stopped.
    b"OBJECT_SYSTEMD_UNIT=token-broker.service\nMESSAGE="
)


@dataclass(frozen=True, slots=True)
class OldFile:
    """A file that was ended: its number in the row, and the day of its end."""

    path: Path
    number: int
    ended_by: float
    """Epoch seconds: the end of that day."""


@dataclass(frozen=True, slots=True)
class AuditFile:
    """A file to be verified."""

    name: str
    content: Path | BinaryIO
    """A file that might be moved meanwhile is open already."""
    size: int | None = None
    """The number of bytes that count; None: all."""

    def blocks(self) -> Iterator[bytes]:
        """Its content, piece by piece; raises OSError."""
        with _opened(self.content) if isinstance(self.content, Path) else self.content as file:
            left = float("inf") if self.size is None else self.size
            while left > 0 and (block := file.read(int(min(BLOCK, left)))):
                left -= len(block)
                yield block

    def close(self) -> None:
        """Close what was open already, where it was not read to its end."""
        if not isinstance(self.content, Path):
            self.content.close()


class AuditSink(Protocol):
    """A place for lines, used by one thread; every method may block."""

    def open(self) -> None:
        """Make ready; raises StartRefused where waiting would not help, OSError where it may."""
        ...

    def begins_file(self, at: float) -> bool:
        """Whether the next line is the first of its file; raises OSError. Ends a file whose time is over."""
        ...

    def last(self) -> Head | None:
        """The last line there is of earlier starts, as far as it can be known."""
        ...

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Append lines: how many are out whole, and why the others are not."""
        ...

    def close(self) -> None: ...


class FileSink:
    """A file of our own, 0600; a path that is no regular file (`/dev/stdout`) is only written to."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.path, self._most_bytes = path, most_bytes
        self._handle: int | None = None
        self._regular = not path.is_relative_to("/dev")
        self._size = 0
        self._torn = False
        """Whether part of a line is behind `_size` that could not be removed yet."""
        self._day = ""

    def open(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        except BlockingIOError:
            raise StartRefused(
                f"audit.to: another broker writes to {self.path}; give each a file of its own"
            ) from None
        except OSError as exc:
            if not isinstance(exc, HOPELESS) and exc.strerror != NOT_OURS:
                raise
            raise StartRefused(f"audit.to: {self.path} cannot be written: {exc.strerror}") from None
        if self._handle is not None and self._regular and (exposed := exposure(self.path, self._handle)):
            raise StartRefused(f"{self.path} is {exposed}")

    def begins_file(self, at: float) -> bool:
        if self._handle is not None and self._regular:
            if self._is_gone():
                log.error("audit.file_vanished")
                self._let_go()
            elif self._size and (_day(at) != self._day or self._size >= self._most_bytes):
                self._end_file(at)
        if self._handle is None:
            self._open()
        if self._size == 0:
            self._day = _day(at)
        return self._regular and self._size == 0

    def last(self) -> Head | None:
        if not self._regular:
            return None
        files = [self.path, *(old.path for old in reversed(old_files(self.path)))]
        return next((head for head in map(last_head, files) if head is not None), None)

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        if self._handle is None:
            return 0, OSError("the file is not open")
        content = b"".join(lines)
        try:
            self._take_back(self._handle)
            written = os.write(self._handle, content)
            while written < len(content):
                written += os.write(self._handle, content[written:])
        except OSError as exc:
            # Half a line would look like somebody's edit.
            self._torn = self._regular
            with suppress(OSError):
                self._take_back(self._handle)
            return 0, exc
        self._size += len(content)
        return len(lines), None

    def close(self) -> None:
        if self._handle is not None:
            if self._regular:
                with suppress(OSError):
                    os.fsync(self._handle)
            self._let_go()

    def snapshot(self) -> list[AuditFile]:
        """The files in their order, as they are between two writes."""
        ours = self._regular and self._handle is not None and not self._is_gone()
        active = [AuditFile(self.path.name, self.path.open("rb"), self._size)] if ours else []
        return [*(AuditFile(old.path.name, old.path) for old in old_files(self.path)), *active]

    def _open(self) -> None:
        # What lies in /dev may lead to a regular file, but is no file of ours.
        self._regular = not self.path.is_relative_to("/dev")
        self._regular &= self.path.is_file() or self.path.is_symlink() or not self.path.exists()
        flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        if self._regular:
            handle = open_own(self.path, flags | os.O_RDWR)
        else:
            # A FIFO that nobody reads would be waited for, for ever.
            handle = os.open(self.path, flags | os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(handle, True)
        try:
            if self._regular:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                size = os.fstat(handle).st_size
                start = max(0, size - TAIL)
                tail = os.pread(handle, TAIL, start)
                if tail and not tail.endswith(b"\n"):
                    # What a crash left of a line: its record was never said to be written.
                    size = start + tail.rfind(b"\n") + 1
                    os.ftruncate(handle, size)
                    log.warning("audit.torn_line_cut")
                days = AT.findall(_tail(self.path))
                self._size, self._day = size, days[-1].decode() if days else ""
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def _take_back(self, handle: int) -> None:
        if self._torn:
            os.ftruncate(handle, self._size)
            self._torn = False

    def _is_gone(self) -> bool:
        """Whether somebody deleted or moved the file: what is written to it from now on would be lost."""
        assert self._handle is not None  # noqa: S101 - the only caller has looked
        try:
            return not os.path.samestat(os.fstat(self._handle), self.path.stat())
        except FileNotFoundError:
            return True

    def _end_file(self, at: float) -> None:
        """Move the file aside; where that fails it goes on, rather than nothing."""
        number = max((old.number for old in old_files(self.path)), default=0) + 1
        ended = self.path.with_name(f"{self.path.stem}-{number:06d}-{_day(at)}{self.path.suffix}")
        try:
            self.path.rename(ended)
        except OSError as exc:
            log.error("audit.rotation_failed", errno=exc.errno)
            self._day = _day(at)
            return
        self.close()

    def _let_go(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle, self._size = None, 0


class JournalSink:
    """One datagram a line to systemd-journald, by its native protocol.

    The stream that standard error is would block the whole process on a stuck journal, and an error on it cannot be
    told from success. https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
    """

    def __init__(self, address: str = JOURNAL, *, patience: float = JOURNAL_PATIENCE) -> None:
        self._address, self._patience = address, patience
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Each write connects where it has to; a journal that is not there yet is waited for."""

    def begins_file(self, at: float) -> bool:  # noqa: ARG002 - the journal has no files of ours
        return False

    def last(self) -> Head | None:
        return None

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        for count, line in enumerate(lines):
            try:
                self._connected().send(FIELDS + line)
            except OSError as exc:
                self.close()
                return count, exc
        return len(lines), None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connecting = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            connecting.settimeout(self._patience)
            try:
                connecting.connect(self._address)
            except OSError:
                with suppress(OSError):
                    connecting.close()
                raise
            self._socket = connecting
        return self._socket


def files_at(path: Path) -> list[AuditFile]:
    """All files of an audit that nobody writes to, in their order."""
    active = [AuditFile(path.name, path)] if path.is_file() else []
    ended = old_files(path) if path.parent.is_dir() else []
    return [*(AuditFile(old.path.name, old.path) for old in ended), *active]


def old_files(path: Path) -> list[OldFile]:
    """Return the ended files of the file at `path`, oldest first."""
    form = re.compile(
        rf"{re.escape(path.stem)}-(\d{{6,}})-(\d{{4}}-\d\d-\d\d){re.escape(path.suffix)}", re.ASCII
    )
    found = [
        OldFile(one, int(name[1]), _end_of(name[2]))
        for one in path.parent.iterdir()
        if (name := form.fullmatch(one.name))
    ]
    return sorted(found, key=lambda old: old.number)


def last_head(path: Path) -> Head | None:
    """The last line in a file, None where there is none."""
    lines = _tail(path).splitlines()
    return next((line.head for line in map(parse_line, reversed(lines)) if line is not None), None)


def last_lines(path: Path, most: int) -> list[bytes]:
    """The whole lines in the last `most` bytes of a file; raises OSError."""
    lines = _tail(path, most).splitlines()
    return lines[1:] if len(lines) > 1 and path.stat().st_size > most else lines


def _tail(path: Path, most: int = TAIL) -> bytes:
    try:
        with _opened(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            return file.read()
    except FileNotFoundError:
        return b""


def _opened(path: Path) -> BinaryIO:
    """A file of the audit, which is no FIFO that would be waited for; raises OSError."""
    return open(open_own(path, os.O_RDONLY), "rb")  # noqa: PTH123 - a handle


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _end_of(day: str) -> float:
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() + DAY
    except ValueError:
        return float("inf")
