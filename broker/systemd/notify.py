"""Tells systemd how the process is doing, by the protocol of sd_notify(3)."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

PATIENCE = 1.0


class Notifier:
    """One datagram per message to `$NOTIFY_SOCKET`; silent where there is none, or nobody listens."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_every = _watchdog_every(environ) if self._address else None
        """Seconds between two signs of life, a third of what systemd waits for; None: it waits for none."""

    def ready(self, status: str) -> None:
        """The start, or a reload, is complete."""
        self._send("READY=1", _status(status))

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(_status(text))

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        # MONOTONIC_USEC is left out: only Type=notify-reload asks for it, and the unit is Type=notify.
        self._send("RELOADING=1")

    def extend_timeout(self, seconds: float) -> None:
        """The start or stop under way needs up to that much longer, counted from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def watchdog(self) -> None:
        """Still alive. A sign that would have to wait is left out: the next one is near."""
        self._send("WATCHDOG=1", patience=0)

    def _send(self, *lines: str, patience: float = PATIENCE) -> None:
        if self._address is None:
            return
        # A supervisor that is gone or stuck must not take tokens with it.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(patience)
            sender.connect(self._address)
            sender.send("\n".join(lines).encode())


def _address(text: str) -> str | None:
    """A path, or an abstract socket, which is written with `@` and addressed with NUL (unix(7))."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _watchdog_every(environ: Mapping[str, str]) -> float | None:
    """A third of `$WATCHDOG_USEC`, where it is meant for this process (sd_watchdog_enabled(3))."""
    span = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(span) / 3_000_000 if ours and span.isdecimal() and int(span) > 0 else None


def _status(text: str) -> str:
    # A line break would begin another message.
    return "STATUS=" + " ".join(text.split())
