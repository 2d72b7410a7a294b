"""The broker's own files: opened without following links, private from the start, and replaced as a whole.

Root runs commands in a folder that the service's user may change. So root must not follow links there, and may change
the owner only of files that it has just created.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""Not blocking: opening a FIFO would wait until its other end is opened."""
SMALL = 1024 * 1024
UNUSABLE = (errno.ELOOP, errno.ENXIO, errno.EISDIR)
NOT_OURS = "it is no regular file with a single name; move it away"


class Exposure(NamedTuple):
    """A file mode that lets other users in, and the command that corrects it."""

    mode: int
    command: str

    def __str__(self) -> str:
        return f"open to others (mode {self.mode:o}); type: {self.command}"


def exposure(path: Path, handle: int | None = None) -> Exposure | None:
    """Return how a file or folder is open to other users, or None if it is not. Raises OSError."""
    found = path.stat() if handle is None else os.fstat(handle)
    mode = stat.S_IMODE(found.st_mode)
    wanted = "700" if stat.S_ISDIR(found.st_mode) else "600"
    return Exposure(mode, f"chmod {wanted} {path}") if mode & 0o077 else None


def open_own(path: Path, flags: int) -> int:
    """Open a regular file. One that O_CREAT creates has mode 0600 and its folder's owner. Raises OSError."""
    folder = os.open(path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _open_below(folder, path, flags)
    finally:
        os.close(folder)


def read_own(path: Path, most: int = SMALL) -> bytes:
    """Return the content of a small regular file; raises OSError."""
    with open(open_own(path, os.O_RDONLY), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most} bytes", str(path))
    return content


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file, following links. Raises OSError; never waits for a pipe or device."""
    if not stat.S_ISREG(mode := path.stat().st_mode):
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise OSError(errno.EINVAL, f"it is {kind}, no regular file", str(path))
    # Not blocking, because another file may have replaced it meanwhile.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - a handle
        return file.read()


def write_own(path: Path, content: bytes) -> None:
    """Replace the file with `content`, durably, as a whole or not at all. Raises OSError."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that replaces `path`, durably, if the block succeeds. Raises OSError."""
    folder = os.open(path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
    unfinished = f"{path.name}.part"
    try:
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=folder)
        handle = _open_below(folder, path.with_name(unfinished), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        try:
            with open(handle, "wb") as file:  # noqa: PTH123 - a handle
                yield file
                file.flush()
                os.fsync(handle)
            os.rename(unfinished, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished, dir_fd=folder)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def new_file(dest: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Yield a path and its file, which becomes `dest`, durably, if the block succeeds. Raises FileExistsError."""
    unfinished = dest.with_name(f".{dest.name}.part-{secrets.token_hex(4)}")
    handle = os.open(unfinished, FLAGS | os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a handle, whose mode was right from the start
            yield unfinished, file
            file.flush()
            os.fsync(handle)
        # Not a rename, which would replace a file that was created meanwhile.
        os.link(unfinished, dest)
    finally:
        unfinished.unlink()
    sync_folder(dest.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (fsync)."""
    handle = os.open(folder, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_foreign(folder: Path) -> bool:
    """Return whether this process is root and the folder belongs to another user."""
    return os.geteuid() == 0 and folder.stat().st_uid != 0


def _open_below(folder: int, path: Path, flags: int) -> int:
    handle = made = None
    try:
        if not flags & os.O_EXCL:
            with suppress(FileNotFoundError):
                handle = os.open(path.name, flags & ~os.O_CREAT | FLAGS, dir_fd=folder)
        if handle is None:
            # Exclusively, because only a file that was just created may get another owner.
            made = flags & os.O_CREAT
            exclusively = os.O_EXCL if made else 0
            handle = os.open(path.name, flags | FLAGS | exclusively, 0o600, dir_fd=folder)
    except OSError as exc:
        if exc.errno in UNUSABLE:
            raise OSError(exc.errno, NOT_OURS, str(path)) from None
        raise
    try:
        found, owner = os.fstat(handle), os.fstat(folder)
        # A hard link to another user's file is as bad as a symbolic link to it.
        foreign = found.st_nlink > 1 and found.st_uid != owner.st_uid
        if not stat.S_ISREG(found.st_mode) or foreign:
            raise OSError(errno.EINVAL, NOT_OURS, str(path))
        if made and os.geteuid() == 0 and owner.st_uid != 0:
            # A file that root created has to belong to the service.
            os.fchown(handle, owner.st_uid, owner.st_gid)
    except BaseException:
        os.close(handle)
        raise
    return handle
