"""Sinks for audit lines: files that are rotated daily or by size, and the journal."""

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
"""Errors that will not go away by themselves."""
JOURNAL = "/run/systemd/journal/socket"
JOURNAL_PATIENCE = 2.0
"""Seconds to wait if the journal's queue is full."""
FIELDS = (
    b"PRIORITY=6\nSYSLOG_IDENTIFIER=token-broker\nTOKEN_BROKER_AUDIT=1\n"
    # `journalctl -u` accepts this from root, whose commands write to the chain while the service is stopped.
    b"OBJECT_SYSTEMD_UNIT=token-broker.service\nMESSAGE="
)


@dataclass(frozen=True, slots=True)
class OldFile:
    """A file that was rotated, with its number."""

    path: Path
    number: int
    ended_by: float
    """The end of the day on which it was rotated, in epoch seconds."""


@dataclass(frozen=True, slots=True)
class AuditFile:
    """A file to be verified."""

    name: str
    content: Path | BinaryIO
    """A file that may be renamed in the meantime is open already."""
    size: int | None = None
    """The number of bytes to read; None for all."""

    def blocks(self) -> Iterator[bytes]:
        """Yield the content in blocks; raises OSError."""
        with _opened(self.content) if isinstance(self.content, Path) else self.content as file:
            left = float("inf") if self.size is None else self.size
            while left > 0 and (block := file.read(int(min(BLOCK, left)))):
                left -= len(block)
                yield block

    def close(self) -> None:
        """Close the file if it was open already."""
        if not isinstance(self.content, Path):
            self.content.close()


class AuditSink(Protocol):
    """A destination of audit lines, used by one thread; every method may block."""

    def open(self) -> None:
        """Open the sink; raises OSError, or StartRefused if the error will not go away by itself."""

    def begins_file(self, at: float) -> bool:
        """Return whether the next line is the first of its file, after rotating a full or old one; raises OSError."""

    def last(self) -> Head | None:
        """Return the head of the last line of earlier starts, if the sink can be read."""

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Append lines; return how many were written completely, and the error of the others."""

    def close(self) -> None:
        """Close the sink."""


class FileSink:
    """A file with mode 0600; a path that is not a regular file (`/dev/stdout`) is only written to."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.path, self._most_bytes = path, most_bytes
        self._handle: int | None = None
        self._regular = not path.is_relative_to("/dev")
        self._size = 0
        self._torn = False
        """True if an incomplete line after `_size` could not be removed yet."""
        self._day = ""

    def open(self) -> None:
        """Open or create the file; see `AuditSink.open`."""
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
        """Rotate the file if it is full or of another day, and open it again if it was deleted or moved."""
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
        """Return the head of the last line in the newest file that has one."""
        if not self._regular:
            return None
        files = [self.path, *(old.path for old in reversed(old_files(self.path)))]
        return next((head for head in map(last_head, files) if head is not None), None)

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Append all lines or none; see `AuditSink.write`."""
        if self._handle is None:
            return 0, OSError("the file is not open")
        content = b"".join(lines)
        try:
            self._take_back(self._handle)
            written = os.write(self._handle, content)
            while written < len(content):
                written += os.write(self._handle, content[written:])
        except OSError as exc:
            # An incomplete line would look like tampering.
            self._torn = self._regular
            with suppress(OSError):
                self._take_back(self._handle)
            return 0, exc
        self._size += len(content)
        return len(lines), None

    def close(self) -> None:
        """Sync and close the file."""
        if self._handle is not None:
            if self._regular:
                with suppress(OSError):
                    os.fsync(self._handle)
            self._let_go()

    def snapshot(self) -> list[AuditFile]:
        """Return the files in their order; call it between two writes."""
        ours = self._regular and self._handle is not None and not self._is_gone()
        active = [AuditFile(self.path.name, self.path.open("rb"), self._size)] if ours else []
        return [*(AuditFile(old.path.name, old.path) for old in old_files(self.path)), *active]

    def _open(self) -> None:
        # A path in /dev may lead to a regular file, but that is not a file of the broker.
        self._regular = not self.path.is_relative_to("/dev")
        self._regular &= self.path.is_file() or self.path.is_symlink() or not self.path.exists()
        flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        if self._regular:
            handle = open_own(self.path, flags | os.O_RDWR)
        else:
            # Opening a FIFO without a reader would block for ever.
            handle = os.open(self.path, flags | os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(handle, True)
        try:
            if self._regular:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                size = os.fstat(handle).st_size
                start = max(0, size - TAIL)
                tail = os.pread(handle, TAIL, start)
                if tail and not tail.endswith(b"\n"):
                    # A crash left an incomplete line, whose record was not confirmed as written.
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
        """Return whether the file was deleted or moved, so that further lines would be lost."""
        assert self._handle is not None  # noqa: S101 - the callers have checked
        try:
            return not os.path.samestat(os.fstat(self._handle), self.path.stat())
        except FileNotFoundError:
            return True

    def _end_file(self, at: float) -> None:
        """Rename the file; if that fails, continue with it."""
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
    """Sends each line as one datagram to systemd-journald, in its native protocol.

    Standard error is not used, because a journal that hangs would block the whole process there, and a failed write
    could not be told from a successful one. https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
    """

    def __init__(self, address: str = JOURNAL, *, patience: float = JOURNAL_PATIENCE) -> None:
        self._address, self._patience = address, patience
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Do nothing: `write` connects when it needs to, so that the journal may start later."""

    def begins_file(self, at: float) -> bool:  # noqa: ARG002 - the journal has no files of ours
        """Return False: the journal has no files of ours."""
        return False

    def last(self) -> Head | None:
        """Return None: the broker does not read the journal."""
        return None

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Send the lines; see `AuditSink.write`."""
        for count, line in enumerate(lines):
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                    self._socket.settimeout(self._patience)
                    self._socket.connect(self._address)
                self._socket.send(FIELDS + line)
            except OSError as exc:
                self.close()
                return count, exc
        return len(lines), None

    def close(self) -> None:
        """Close the connection to the journal."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def files_at(path: Path) -> list[AuditFile]:
    """Return all files of an audit that no broker writes to, in their order."""
    active = [AuditFile(path.name, path)] if path.is_file() else []
    ended = old_files(path) if path.parent.is_dir() else []
    return [*(AuditFile(old.path.name, old.path) for old in ended), *active]


def old_files(path: Path) -> list[OldFile]:
    """Return the rotated files of the file at `path`, oldest first."""
    form = re.compile(
        rf"{re.escape(path.stem)}-(\d{{6,}})-(\d{{4}}-\d\d-\d\d){re.escape(path.suffix)}", re.ASCII
    )
    found = []
    for one in path.parent.iterdir():
        if name := form.fullmatch(one.name):
            # A file whose name has no valid date is never old enough to be deleted.
            ended_by = float("inf")
            with suppress(ValueError):
                ended_by = datetime.strptime(name[2], "%Y-%m-%d").replace(tzinfo=UTC).timestamp() + DAY
            found.append(OldFile(one, int(name[1]), ended_by))
    return sorted(found, key=lambda old: old.number)


def last_head(path: Path) -> Head | None:
    """Return the head of the last line in a file, or None if there is none."""
    lines = _tail(path).splitlines()
    return next((line.head for line in map(parse_line, reversed(lines)) if line is not None), None)


def last_lines(path: Path, most: int) -> list[bytes]:
    """Return the complete lines in the last `most` bytes of a file; raises OSError."""
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
    """Open a file of the audit, refusing a FIFO, which would block; raises OSError."""
    return open(open_own(path, os.O_RDONLY), "rb")  # noqa: PTH123 - a handle


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
