"""The sockets that the configuration names, held by systemd or bound here, and their TLS.

A refusal says which key of the configuration to change, and how.
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
"""Milliseconds after which the kernel gives up a connection whose peer takes nothing: also one that is closed here
already, which would keep its file until the last byte is read."""


def use_every_file() -> int:
    """Raise the limit of open files as far as one may, and return it.

    The usual soft limit of 1,024 is for programs that call select(), which this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MOST_FILES:
        return MOST_FILES
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class Sockets:
    """The sockets that systemd holds, told apart by their addresses; the others are bound here."""

    def __init__(self, passed: Sequence[socket.socket] = ()) -> None:
        self._passed = list(passed)
        self._unserved = [one for one in passed if one.family == socket.AF_UNIX]

    def listening(self, listen: Listen, *, key: str) -> socket.socket:
        """Return a bound socket; raises StartRefused with the configuration's key and the next step."""
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
        """Send `answer` to the clients that wait at the Unix socket `path`, if systemd holds it.

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
        """Answer nobody here from now on."""
        self._unserved.clear()

    def refuse_unclaimed(self) -> None:
        """Refuse sockets that nobody listens at, because their clients would wait for ever; raises StartRefused."""
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
    """Say why an address cannot be listened on, and what to do."""
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
        # A host name that means nothing is at no address.
        return False
    return name[:2] in {address[:2] for *_, address in found}


def _refuse_if_wider(listen: UnixListen, key: str) -> None:
    """Refuse a socket that lets in more than the configuration; the unit may let in less."""
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
    """Bind a Unix socket with that mode, never open to more for a moment; raises StartRefused."""
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


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A listener's TLS 1.2 or newer; `reload` serves a renewed certificate to whoever connects from then on."""

    files: Tls
    key: str
    """The configuration's, for messages."""
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        """Raises StartRefused."""
        object.__setattr__(self, "context", usable(self.files, key=self.key))

    def reload(self) -> None:
        """Read both files again. Only for files that `usable` has just taken: half of a pair would stay."""
        self.context.load_cert_chain(self.files.cert, self.files.key, password=_no_passphrase)


def usable(files: Tls, *, key: str) -> ssl.SSLContext:
    """Return a context of these files; raises StartRefused, which names the file that is wrong and the next step."""
    for path, name, kind in ((files.cert, "cert", "certificate"), (files.key, "key", "private key")):
        try:
            content = read_regular(path)
        except OSError as exc:
            raise StartRefused(f"{key}.{name}: {path} cannot be read: {exc.strerror}") from None
        if b"-----BEGIN " not in content or f"{kind.upper()}-----".encode() not in content:
            raise StartRefused(f"{key}.{name}: {path} holds no {kind}; put a PEM file there")
    # A group may read it: so do systemd's credentials and Debian's group ssl-cert.
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
    """Return when the certificate that is served ends, in epoch seconds; only for one that `usable` has taken."""
    return x509.load_pem_x509_certificates(cert.read_bytes())[0].not_valid_after_utc.timestamp()


class _Encrypted(Exception):
    """The key is encrypted with a passphrase; without this OpenSSL would ask the terminal for it."""


def _no_passphrase() -> Never:
    raise _Encrypted
