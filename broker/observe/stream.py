"""Standard error as a place for log lines that neither fails nor holds up the process: tokens matter more."""

import io
import os
import socket
import stat
from contextlib import suppress
from typing import TextIO

AT_ONCE = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Unfailing:
    """Whole lines to a stream. What the other end will not take is lost, counted, and told of when it takes again.

    Under systemd standard error is a socket to the journal: a journal that hangs would hang whoever writes to it, and
    one that is gone is an error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._socket = _socket_under(stream)
        self._lost, self._torn = 0, False

    def write(self, line: str) -> int:
        if self._lost and self._put(
            f'{{"event": "log.lines_lost", "level": "warning", "lines": {self._lost}}}\n'
        ):
            self._lost = 0
        if self._lost or not self._put(line):
            self._lost += 1
        return len(line)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def _put(self, line: str) -> bool:
        try:
            if self._socket is None:
                self._stream.write(line)
                return True
            return self._send(self._socket, line.encode(errors="backslashreplace"))
        except (OSError, ValueError):
            return False

    def _send(self, number: int, line: bytes) -> bool:
        # A line of which only a part went out must not be continued by the next.
        whole = b"\n" + line if self._torn else line
        connection = socket.socket(fileno=number)
        try:
            sent = connection.send(whole, AT_ONCE)
        finally:
            connection.detach()
        self._torn = sent < len(whole)
        return not self._torn


def _socket_under(stream: TextIO) -> int | None:
    try:
        number = stream.fileno()
    except (io.UnsupportedOperation, ValueError, AttributeError):
        return None
    return number if stat.S_ISSOCK(os.fstat(number).st_mode) else None
