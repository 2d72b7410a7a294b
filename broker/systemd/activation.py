"""Takes the sockets that systemd holds open over our restarts, by the protocol of sd_listen_fds(3)."""

import os
import socket
from collections.abc import Mapping

from broker.errors import StartRefused

FIRST = 3
"""SD_LISTEN_FDS_START."""


def passed_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """Those that were passed to this very process; raises StartRefused for what does not listen."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "")
    if not count.isdecimal():
        return []
    return [_taken(number) for number in range(FIRST, FIRST + int(count))]


def _taken(number: int) -> socket.socket:
    try:
        passed = socket.socket(fileno=number)
    except OSError as exc:
        raise StartRefused(_wrong(number, exc.strerror or "no socket")) from None
    # Or every command that the broker runs would hold the address as well.
    passed.set_inheritable(False)
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        passed.close()
        raise StartRefused(_wrong(number, "it does not listen"))
    return passed


def _wrong(number: int, why: str) -> str:
    return (
        f"systemd passes file descriptor {number}, which is of no use ({why}); the .socket unit may have"
        " ListenStream= only, and Accept=no"
    )
