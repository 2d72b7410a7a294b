"""The sockets that the configuration names, held by systemd or bound here; a refusal says which key to change."""

import errno
import grp
import os
import resource
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from broker.config.settings import Listen, TcpListen, UnixListen
from broker.errors import StartRefused

BACKLOG = 512
LONGEST_PATH = 107
MOST_FILES = 65_536
SHORTLY = 0.2
LONGEST_REQUEST = 64 * 1024
UNREAD = 30_000
"""Milliseconds after which the kernel gives up a connection whose peer takes nothing: also one that is closed here
already, which would keep its file until the last byte is read."""


def use_every_file() -> int:
    """Raise the limit of open files as far as one may; how many it is now.

    The usual soft limit of 1,024 is for programs that call select(), which this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MOST_FILES:
        return MOST_FILES
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class Sockets:
    """Those that systemd holds are told apart by the address they are bound to; the others are bound here."""

    def __init__(self, passed: Sequence[socket.socket] = ()) -> None:
        self._passed = list(passed)
        self._unserved = [one for one in passed if one.family == socket.AF_UNIX]

    def listening(self, listen: Listen, *, key: str) -> socket.socket:
        """A bound socket; raises StartRefused with the configuration's key and the next step."""
        held = next((one for one in self._passed if _is_at(one, listen)), None)
        if held is not None:
            self._passed.remove(held)
            if isinstance(listen, UnixListen):
                _refuse_if_wider(listen, key)
            else:
                _end_unread(held)
            return held
        match listen:
            case UnixListen(path, mode, group):
                return bind_unix(path, mode=mode, group=group, key=key)
            case TcpListen(host, port):
                return _bind_tcp(host, port, key)

    def answer_waiting(self, path: Path, answer: bytes) -> None:
        """Send `answer` to those who wait at the Unix socket `path`, if systemd holds it.

        Whoever connects during a start waits for it; without this, also for one that is refused again and again.
        """
        for held in self._unserved:
            if not _is_at(held, UnixListen(path, 0, None)):
                continue
            held.setblocking(False)
            with suppress(OSError):
                for _ in range(BACKLOG):
                    connection, _ = held.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(SHORTLY)
                        # A connection that is closed with something unread is reset.
                        connection.recv(LONGEST_REQUEST)
                        connection.sendall(answer)

    def all_served(self) -> None:
        """From now on nobody has to be answered here."""
        self._unserved.clear()

    def refuse_unclaimed(self) -> None:
        """Whoever connected to a socket that nobody listens at would wait for ever; raises StartRefused."""
        if self._passed:
            addresses = ", ".join(_address(one) for one in self._passed)
            raise StartRefused(
                f"systemd holds {addresses}, which no key of [server] names: name it in server.internal or"
                " server.public, or take it out with `systemctl edit token-broker.socket`"
            )


def refused(key: str, listen: object, exc: OSError) -> StartRefused:
    """Why an address cannot be listened on, and what to do."""
    if exc.errno == errno.EADDRINUSE:
        return StartRefused(
            f"{key}: {listen} is taken by another program; stop that one, or set {key} to a free port"
            " (with make: make run PORT=9000)"
        )
    return StartRefused(f"{key}: cannot listen on {listen}: {exc.strerror or exc}")


def _is_at(passed: socket.socket, listen: Listen) -> bool:
    match listen:
        case UnixListen(path):
            unix = passed.family == socket.AF_UNIX
            return unix and os.path.realpath(passed.getsockname()) == os.path.realpath(path)
        case TcpListen(host, port):
            if passed.family not in (socket.AF_INET, socket.AF_INET6):
                return False
            return passed.getsockname()[:2] in _resolved(host, port)


def _resolved(host: str, port: int) -> set[tuple[object, ...]]:
    """Host and port as the kernel has them; none where the name means nothing."""
    try:
        return {address[:2] for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _refuse_if_wider(listen: UnixListen, key: str) -> None:
    """The unit may keep people out that the configuration lets in, never the other way round."""
    found = listen.path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & ~listen.mode:
        raise StartRefused(
            f"{key}: systemd made {listen.path} with mode {mode:04o}, which lets in more than {listen.mode:04o};"
            f" set SocketMode={listen.mode:04o} with `systemctl edit token-broker.socket`, then restart that"
        )
    if mode & 0o070 and listen.group is not None and found.st_gid != _gid(listen.group):
        raise StartRefused(
            f"{key}: systemd made {listen.path} for another group than {listen.group}; set"
            f" SocketGroup={listen.group} with `systemctl edit token-broker.socket`, then restart that"
        )


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _address(passed: socket.socket) -> str:
    name = passed.getsockname()
    return str(TcpListen(*name[:2])) if isinstance(name, tuple) else str(name)


def _end_unread(listening: socket.socket) -> None:
    """Connections inherit it from the socket that accepts them."""
    # The option is Linux's (RFC 5482).
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)


def _bind_tcp(host: str, port: int, key: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise StartRefused(f"{key}: {host} is no address of this machine ({exc.strerror})") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _end_unread(bound)
    try:
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as exc:
        bound.close()
        raise refused(key, TcpListen(host, port), exc) from None
    return bound


def bind_unix(path: Path, *, mode: int, group: str | None, key: str) -> socket.socket:
    """A Unix socket at `path` with that mode, never open to more for a moment; raises StartRefused."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise StartRefused(
            f"{key}: the path {path} is longer than {LONGEST_PATH} bytes, which no Unix socket can have"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_socket():
        _remove_stale(path, key)
    elif os.path.lexists(path):
        raise StartRefused(
            f"{key}: cannot listen on {path}: it is no socket; move it away, or set {key} to another path"
        )
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A mode from the start: to change it afterwards could reach what somebody laid there meanwhile.
    before = os.umask(0o177 if group is not None else 0o777 & ~mode)
    try:
        bound.bind(str(path))
        # At once, or another start would take it for one that a crash left.
        bound.listen(BACKLOG)
    except OSError as exc:
        bound.close()
        raise StartRefused(f"{key}: cannot listen on {path}: {exc.strerror}") from None
    finally:
        os.umask(before)
    if group is not None:
        _give_to(path, group, mode, key)
    return bound


def _remove_stale(path: Path, key: str) -> None:
    """Remove a socket that a crash left; raises StartRefused where somebody listens on it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError:
            # Its queue is full, or it is another kind of socket: it is somebody's.
            pass
    raise StartRefused(
        f"{key}: another broker answers at {path}; stop that one, or set {key} to a path of this broker's own"
    )


def _give_to(path: Path, group: str, mode: int, key: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid, follow_symlinks=False)
        if path.is_symlink():
            raise PermissionError
        path.chmod(mode)
    except (KeyError, PermissionError):
        raise StartRefused(
            f"{key}: the socket cannot be given to the group {group}; does it exist?"
        ) from None
