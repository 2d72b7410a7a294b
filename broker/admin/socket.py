"""The admin socket: whoever may open it is an operator, and the kernel says who that is."""

import grp
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from broker.errors import StartRefused, Unauthenticated
from broker.model import Caller, Permission
from broker.peers import peer_uid
from broker.web import CALLER, Handler

BACKLOG = 512
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
