"""Standard error as a place for log lines that neither fails nor holds up the process: tokens matter more."""

import asyncio
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

    def __init__(self, stream: TextIO, *, mark: str = "") -> None:
        self._stream, self._mark = stream, mark
        self._socket = _socket_under(stream)
        self._lost, self._torn = 0, False
        self._waiting: list[str] = []

    def write(self, line: str) -> int:
        if self._waiting:
            self._write_waiting()
        self._write(line, 1)
        return len(line)

    def write_soon(self, line: str) -> None:
        """Write it at the end of the event loop's turn, together with all others of that turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write_waiting)
        self._waiting.append(line)

    def _write_waiting(self) -> None:
        lines, self._waiting = self._waiting, []
        if lines:
            self._write("".join(lines), len(lines))

    def _write(self, lines: str, count: int) -> None:
        if self._lost:
            notice = f'{self._mark}{{"event": "log.lines_lost", "level": "warning", "lines": {self._lost}}}\n'
            if not self._put(notice, 1):
                self._lost = 0
        self._lost += count if self._lost else self._put(lines, count)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def _put(self, lines: str, count: int) -> int:
        """How many of these lines are lost."""
        try:
            if self._socket is None:
                self._stream.write(lines)
                return 0
            return self._send(self._socket, lines.encode(errors="backslashreplace"))
        except (OSError, ValueError):
            return count

    def _send(self, number: int, lines: bytes) -> int:
        # A line of which only a part went out must not be continued by the next.
        whole = b"\n" + lines if self._torn else lines
        connection = socket.socket(fileno=number)
        try:
            sent = connection.send(whole, AT_ONCE)
        finally:
            connection.detach()
        self._torn = 0 < sent < len(whole) and whole[sent - 1 : sent] != b"\n"
        return whole.count(b"\n", sent)


def _socket_under(stream: TextIO) -> int | None:
    try:
        number = stream.fileno()
    except (io.UnsupportedOperation, ValueError, AttributeError):
        return None
    return number if stat.S_ISSOCK(os.fstat(number).st_mode) else None
