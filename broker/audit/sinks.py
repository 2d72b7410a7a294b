"""Where lines go: the contract of a sink, and the journal's native socket."""

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from broker.audit.chain import Head

JOURNAL = "/run/systemd/journal/socket"
JOURNAL_PATIENCE = 2.0
"""Seconds that a full queue of the journal is waited for."""
FIELDS = (
    b"PRIORITY=6\nSYSLOG_IDENTIFIER=token-broker\nTOKEN_BROKER_AUDIT=1\n"
    # `journalctl -u` believes it of root, whose commands write to the chain while the service is stopped.
    b"OBJECT_SYSTEMD_UNIT=token-broker.service\nMESSAGE="
)


class AuditSink(Protocol):
    """A place for lines, used by one thread; every method may block."""

    def open(self) -> None:
        """Make ready; raises StartRefused where waiting would not help, OSError where it may."""
        ...

    def begins_file(self, at: float) -> bool:
        """Whether the next line is the first of its file; raises OSError. Ends a file whose time is over."""
        ...

    def last(self) -> Head | None:
        """The last line there is of earlier starts, as far as it can be known."""
        ...

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Append lines: how many are out whole, and why the others are not."""
        ...

    def close(self) -> None: ...


class JournalSink:
    """One datagram a line to systemd-journald, by its native protocol.

    The stream that standard error is would block the whole process on a stuck journal, and an error on it cannot be
    told from success. https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
    """

    def __init__(self, address: str = JOURNAL, *, patience: float = JOURNAL_PATIENCE) -> None:
        self._address, self._patience = address, patience
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Each write connects where it has to; a journal that is not there yet is waited for."""

    def begins_file(self, at: float) -> bool:  # noqa: ARG002 - the journal has no files of ours
        return False

    def last(self) -> Head | None:
        return None

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        for count, line in enumerate(lines):
            try:
                self._connected().send(FIELDS + line)
            except OSError as exc:
                self.close()
                return count, exc
        return len(lines), None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connecting = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            connecting.settimeout(self._patience)
            try:
                connecting.connect(self._address)
            except OSError:
                with suppress(OSError):
                    connecting.close()
                raise
            self._socket = connecting
        return self._socket
