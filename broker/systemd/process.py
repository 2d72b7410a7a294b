"""The process: sockets and readiness between it and systemd, signs of life, what others may see of it."""

import ctypes
import os
import re
import resource
import socket
from collections.abc import Mapping
from contextlib import suppress

from broker.errors import StartRefused

PATIENCE = 1.0
PR_SET_DUMPABLE = 4
FIRST = 3
"""SD_LISTEN_FDS_START."""


class Notifier:
    """One datagram per message to `$NOTIFY_SOCKET`; silent where there is none, or nobody listens."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # An abstract socket is written with `@` and addressed with NUL (unix(7)).
        address = re.sub("^@", "\0", environ.get("NOTIFY_SOCKET", ""))
        self._address = address if address.startswith(("/", "\0")) else None
        span = environ.get("WATCHDOG_USEC", "")
        # Where it is meant for this process (sd_watchdog_enabled(3)).
        ours = self._address and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = int(span) if ours and span.isdecimal() else 0
        self.watchdog_every = microseconds / 3_000_000 if microseconds else None
        """Seconds between two signs of life, a third of what systemd waits for; None: it waits for none."""

    def ready(self, status: str) -> None:
        """Report that the start, or a reload, is complete."""
        # A line break would begin another message.
        self._send("READY=1", "STATUS=" + " ".join(status.split()))

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """Report that a reload begins; `ready` ends it."""
        # MONOTONIC_USEC is left out: only Type=notify-reload asks for it, and the unit is Type=notify.
        self._send("RELOADING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for so many seconds more, from now on, for the start or stop under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def watchdog(self) -> None:
        """Send a sign of life, unless it would have to wait: the next one is near."""
        self._send("WATCHDOG=1", patience=0)

    def _send(self, *lines: str, patience: float = PATIENCE) -> None:
        if self._address is None:
            return
        # A supervisor that is gone or stuck must not take tokens with it.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(patience)
            sender.connect(self._address)
            sender.send("\n".join(lines).encode())


def passed_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd holds open over our restarts (sd_listen_fds(3)).

    Raises StartRefused for one that does not listen.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "")
    if not count.isdecimal():
        return []
    return [_taken(number) for number in range(FIRST, FIRST + int(count))]


def _taken(number: int) -> socket.socket:
    try:
        passed = socket.socket(fileno=number)
        # Or every command that the broker runs would hold the address as well.
        passed.set_inheritable(False)
        if passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return passed
        passed.close()
        why = "it does not listen"
    except OSError as exc:
        why = exc.strerror or "no socket"
    raise StartRefused(
        f"systemd passes file descriptor {number}, which is of no use ({why}); the .socket unit may have"
        " ListenStream= only, and Accept=no"
    )


def harden() -> None:
    """Forbid core dumps, tracing, and `/proc/PID/environ` to all but root (prctl(2), proc(5)); less without Linux.

    Asked of the kernel before any secret is read.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core handler behind a pipe ignores the limit, but not this.
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
