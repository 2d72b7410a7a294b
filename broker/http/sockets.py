"""Provides the configured sockets, from systemd or bound here, and their TLS contexts.

An error names the configuration key to change, and how.
"""

import errno
import grp
import os
import resource
import socket
import ssl
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never

from cryptography import x509

from broker.config.secrets import mode_problem
from broker.config.values import Listen, TcpListen, Tls, UnixListen
from broker.errors import StartRefused
from broker.files import read_regular

BACKLOG = 512
LONGEST_PATH = 107
MOST_FILES = 65_536
SHORTLY = 0.2
LONGEST_REQUEST = 64 * 1024
UNREAD = 30_000
"""Milliseconds after which the kernel drops a connection whose peer reads nothing, even after it was closed here."""


def use_every_file() -> int:
    """Raise the soft limit of open files as far as possible, and return it.

    The usual soft limit of 1,024 protects programs that call select(), which this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MOST_FILES:
        return MOST_FILES
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class Sockets:
    """Finds the socket of an address among those that systemd passed, or binds a new one."""

    def __init__(self, passed: Sequence[socket.socket] = ()) -> None:
        self._passed = list(passed)
        self._unserved = [one for one in passed if one.family == socket.AF_UNIX]

    def listening(self, listen: Listen, *, key: str) -> socket.socket:
        """Return a bound socket for an address; raises StartRefused, which names `key` and the next step."""
        held = next((one for one in self._passed if _is_at(one, listen)), None)
        if held is not None:
            self._passed.remove(held)
        match listen:
            case UnixListen(path, mode, group):
                if held is None:
                    return bind_unix(path, mode=mode, group=group, key=key)
                _refuse_if_wider(listen, key)
            case TcpListen(host, port):
                if held is None:
                    return _bind_tcp(host, port, key)
                _end_unread(held)
        return held

    def answer_waiting(self, path: Path, answer: bytes) -> None:
        """Send `answer` to the clients that wait at the Unix socket `path`, if systemd passed it.

        They have connected during the start. Without an answer they would wait for ever if it is refused.
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
        """Stop answering waiting clients, because the listeners do."""
        self._unserved.clear()

    def refuse_unclaimed(self) -> None:
        """Raise StartRefused if systemd passed a socket that no key names, because its clients would wait for ever."""
        if self._passed:
            names = [one.getsockname() for one in self._passed]
            addresses = ", ".join(
                str(TcpListen(*name[:2])) if isinstance(name, tuple) else str(name) for name in names
            )
            raise StartRefused(
                f"systemd holds {addresses}, which no key of [server] names: name it in server.internal or"
                " server.public, or take it out with `systemctl edit token-broker.socket`"
            )


def refused(key: str, listen: object, exc: OSError) -> StartRefused:
    """Return the error for an address that cannot be bound, with what to do."""
    if exc.errno == errno.EADDRINUSE:
        return StartRefused(
            f"{key}: {listen} is taken by another program; stop that one, or set {key} to a free port"
            " (with make: make run PORT=9000)"
        )
    return StartRefused(f"{key}: cannot listen on {listen}: {exc.strerror or exc}")


def _is_at(passed: socket.socket, listen: Listen) -> bool:
    name = passed.getsockname()
    if isinstance(listen, UnixListen):
        unix = passed.family == socket.AF_UNIX
        return unix and os.path.realpath(name) == os.path.realpath(listen.path)
    if passed.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)
    except OSError:
        # A host name without an address matches no socket.
        return False
    return name[:2] in {address[:2] for *_, address in found}


def _refuse_if_wider(listen: UnixListen, key: str) -> None:
    """Raise StartRefused if systemd made a socket with more permissions than configured; fewer are fine."""
    found = listen.path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & ~listen.mode:
        raise StartRefused(
            f"{key}: systemd made {listen.path} with mode {mode:04o}, which lets in more than {listen.mode:04o};"
            f" set SocketMode={listen.mode:04o} with `systemctl edit token-broker.socket`, then restart that"
        )
    wanted: int | None = None
    with suppress(KeyError):
        wanted = grp.getgrnam(listen.group).gr_gid if listen.group is not None else found.st_gid
    if mode & 0o070 and found.st_gid != wanted:
        raise StartRefused(
            f"{key}: systemd made {listen.path} for another group than {listen.group}; set"
            f" SocketGroup={listen.group} with `systemctl edit token-broker.socket`, then restart that"
        )


def _end_unread(listening: socket.socket) -> None:
    """Set UNREAD on a listening socket, from which its connections inherit it."""
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
    """Bind a Unix socket that never has more permissions than `mode`; raises StartRefused."""
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
    # The umask sets the mode, because a later chmod could hit a file that somebody put there meanwhile.
    before = os.umask(0o177 if group is not None else 0o777 & ~mode)
    try:
        bound.bind(str(path))
        # Immediately, or another start would take the socket for a stale one.
        bound.listen(BACKLOG)
    except OSError as exc:
        bound.close()
        raise StartRefused(f"{key}: cannot listen on {path}: {exc.strerror}") from None
    finally:
        os.umask(before)
    if group is not None:
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid, follow_symlinks=False)
            if path.is_symlink():
                raise PermissionError
            path.chmod(mode)
        except (KeyError, PermissionError):
            raise StartRefused(
                f"{key}: the socket cannot be given to the group {group}; does it exist?"
            ) from None
    return bound


def _remove_stale(path: Path, key: str) -> None:
    """Remove a socket that a crash left; raises StartRefused if a program listens on it."""
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
            # The queue is full, or it is another kind of socket: a program uses it.
            pass
    raise StartRefused(
        f"{key}: another broker answers at {path}; stop that one, or set {key} to a path of this broker's own"
    )


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The TLS context of a listener, for TLS 1.2 or newer; `reload` loads a renewed certificate."""

    files: Tls
    key: str
    """The configuration key, for messages."""
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        """Raises StartRefused."""
        object.__setattr__(self, "context", usable(self.files, key=self.key))

    def reload(self) -> None:
        """Load the certificate and key again. Call `usable` first: a bad pair may be loaded only in part."""
        self.context.load_cert_chain(self.files.cert, self.files.key, password=_no_passphrase)


def usable(files: Tls, *, key: str) -> ssl.SSLContext:
    """Return a TLS context of two files; raises StartRefused, which names the wrong file and the next step."""
    for path, name, kind in ((files.cert, "cert", "certificate"), (files.key, "key", "private key")):
        try:
            content = read_regular(path)
        except OSError as exc:
            raise StartRefused(f"{key}.{name}: {path} cannot be read: {exc.strerror}") from None
        if b"-----BEGIN " not in content or f"{kind.upper()}-----".encode() not in content:
            raise StartRefused(f"{key}.{name}: {path} holds no {kind}; put a PEM file there")
    # A group may read it, as with systemd's credentials and Debian's group ssl-cert.
    problem = mode_problem(files.key)
    if problem is not None and problem[1]:
        raise StartRefused(f"{key}.key: {files.key} is {problem[0]}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_passphrase)
    except _Encrypted:
        raise StartRefused(
            f"{key}.key: {files.key} needs a passphrase, and nobody is there to type it; type:"
            f" openssl pkey -in {files.key} -out FILE"
        ) from None
    except ssl.SSLError as exc:
        why = f"{files.cert} and {files.key} cannot be used: {exc.reason or 'not understood'}"
        if exc.reason == "KEY_VALUES_MISMATCH":
            why = f"{files.key} is not the key of the first certificate in {files.cert}; put the pair there"
        raise StartRefused(f"{key}: {why}") from None
    return context


def expires_at(cert: Path) -> float:
    """Return the expiry of a certificate that `usable` has accepted, in epoch seconds."""
    return x509.load_pem_x509_certificates(cert.read_bytes())[0].not_valid_after_utc.timestamp()


class _Encrypted(Exception):
    """The key is encrypted. Raised instead of letting OpenSSL ask the terminal for a passphrase."""


def _no_passphrase() -> Never:
    raise _Encrypted
