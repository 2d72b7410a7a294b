"""The admin socket: whoever may open it is an operator, and the kernel says who that is."""

import grp
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from broker.callers.peer import peer_uid
from broker.errors import StartRefused, Unauthenticated
from broker.model import Caller, Permission
from broker.web import CALLER, Handler

LONGEST_PATH = 107


def operator(uid: int) -> Caller:
    """The caller that stands for a local user."""
    return Caller(f"uid:{uid}", ("*",), frozenset(Permission), credential=f"uid {uid}")


def by_peer() -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """A middleware that makes the peer's uid the caller (SO_PEERCRED)."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        uid = peer_uid(request.transport)
        if uid is None:
            raise Unauthenticated
        request[CALLER] = operator(uid)
        return await handler(request)

    return middleware


def bind(path: Path, *, mode: int, group: str | None, key: str) -> socket.socket:
    """A Unix socket at `path` with that mode, never open to more for a moment; raises StartRefused."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise StartRefused(
            f"{key}: the path {path} is longer than {LONGEST_PATH} bytes, which no Unix socket can have"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_socket():
        # The store's lock says that no other broker runs here, so this one was left by a crash.
        path.unlink()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        bound.bind(str(path))
    except OSError as exc:
        bound.close()
        raise StartRefused(f"{key}: cannot listen on {path}: {exc.strerror}") from None
    finally:
        os.umask(before)
    if group is not None:
        _give_to(path, group, key)
    path.chmod(mode)
    return bound


def _give_to(path: Path, group: str, key: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except (KeyError, PermissionError):
        raise StartRefused(
            f"{key}: the socket cannot be given to the group {group}; does it exist?"
        ) from None
