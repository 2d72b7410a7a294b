"""The process under systemd: passed sockets, notifications, the watchdog, and hardening."""

import ctypes
import os
import re
import resource
import socket
from collections.abc import Mapping
from contextlib import suppress

from broker.errors import StartRefused

PATIENCE = 1.0
"""Seconds that a notification may wait for a supervisor that does not read."""
PR_SET_DUMPABLE = 4
FIRST = 3
"""The first passed file descriptor, SD_LISTEN_FDS_START."""


class Notifier:
    """Sends notifications to `$NOTIFY_SOCKET` (sd_notify(3)); it does nothing if there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # The name of an abstract socket begins with `@` here, and with NUL as an address (unix(7)).
        address = re.sub("^@", "\0", environ.get("NOTIFY_SOCKET", ""))
        self._address = address if address.startswith(("/", "\0")) else None
        span = environ.get("WATCHDOG_USEC", "")
        # The variable may be meant for another process (sd_watchdog_enabled(3)).
        ours = self._address and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = int(span) if ours and span.isdecimal() else 0
        self.watchdog_every = microseconds / 3_000_000 if microseconds else None
        """Seconds between two watchdog messages, a third of systemd's limit; None if systemd expects none."""

    def ready(self, status: str) -> None:
        """Report that the start, or a reload, is complete."""
        # A line break would begin another message.
        self._send("READY=1", "STATUS=" + " ".join(status.split()))

    def stopping(self) -> None:
        """Report that the process is stopping."""
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """Report that a reload begins; `ready` ends it."""
        # MONOTONIC_USEC is left out: only Type=notify-reload asks for it, and the unit is Type=notify.
        self._send("RELOADING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for so many more seconds, from now on, for the start or stop under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def watchdog(self) -> None:
        """Send a watchdog message, unless that would block; the next one follows soon."""
        self._send("WATCHDOG=1", patience=0)

    def _send(self, *lines: str, patience: float = PATIENCE) -> None:
        if self._address is None:
            return
        # A supervisor that is gone or stuck must not disturb the broker.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(patience)
            sender.connect(self._address)
            sender.send("\n".join(lines).encode())


def passed_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd keeps open during restarts (sd_listen_fds(3)).

    Raises StartRefused if one of them does not listen.
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
        # Otherwise every command that the broker runs would keep the address in use.
        passed.set_inheritable(False)
        if passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return passed
        passed.close()
        why = "it does not listen"
    except OSError as exc:
        why = exc.strerror or "no socket"
    raise StartRefused(
        f"systemd passes file descriptor {number}, which cannot be used ({why}); the .socket unit may have"
        " ListenStream= only, and Accept=no"
    )


def harden() -> None:
    """Forbid core dumps and tracing, and hide `/proc/PID/environ` from all but root (prctl(2), proc(5)).

    It must be called before any secret is read. Without Linux it forbids core dumps only.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core handler behind a pipe ignores the limit, but not this.
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
