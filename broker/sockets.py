"""Binds what the configuration names; a socket that cannot be had says which key to change."""

import errno
import resource
import socket

from broker.admin.socket import bind as bind_unix
from broker.config.settings import Listen, TcpListen, UnixListen
from broker.errors import StartRefused

BACKLOG = 512
MOST_FILES = 65_536


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


def listening(listen: Listen, *, key: str) -> socket.socket:
    """A bound socket; raises StartRefused with the configuration's key and the next step."""
    match listen:
        case UnixListen(path, mode, group):
            return bind_unix(path, mode=mode, group=group, key=key)
        case TcpListen(host, port):
            return _bind_tcp(host, port, key)


def refused(key: str, listen: object, exc: OSError) -> StartRefused:
    """Why an address cannot be listened on, and what to do."""
    if exc.errno == errno.EADDRINUSE:
        return StartRefused(
            f"{key}: {listen} is taken by another program; stop that one, or set {key} to a free port"
            " (with make: make run PORT=9000)"
        )
    return StartRefused(f"{key}: cannot listen on {listen}: {exc.strerror or exc}")


def _bind_tcp(host: str, port: int, key: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise StartRefused(f"{key}: {host} is no address of this machine ({exc.strerror})") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as exc:
        bound.close()
        raise refused(key, TcpListen(host, port), exc) from None
    return bound
