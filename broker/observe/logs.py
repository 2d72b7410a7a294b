"""Logging: each line is an event with a dotted name and fields, and never contains a secret."""

import asyncio
import io
import json
import logging
import os
import re
import socket
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, TextIO, cast

import structlog

from broker.config.settings import LogSettings
from broker.model import Secret
from broker.times import SecondText, to_second

QUIET = ("aiosqlite", "aiohttp", "asyncio")
"""aiosqlite logs every SQL parameter at DEBUG; aiohttp's access log writes queries with codes and states."""
ENCODER = json.JSONEncoder()
PLAIN = frozenset({type(None), bool, int, float})
MAX_FIELD = 500
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
"""The priorities of syslog(3) by the names of structlog's methods."""
FRAMES = 8
MOST_PER_ADDRESS, MOST = 20, 100
"""Lines a second for requests without a credential, which anybody can send: of one address, and of all."""
CREDENTIAL = re.compile(
    r"\b(?:tb[a-z]{1,2}_[A-Za-z0-9_-]{16,}|(?i:bearer) +[\x21-\x7e]+|eyJ[\w-]+\.[\w-]+\.[\w-]*)", re.ASCII
)
"""Matches texts that look like an API key, a Bearer header or a JWT: a second defence after `Secret`."""
AT_ONCE = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def goes_to_journal(environ: Mapping[str, str], stream: TextIO = sys.stderr) -> bool:
    """Return whether systemd connected `stream` to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def mark(level: str) -> str:
    """Return the prefix that gives a log line its priority in the journal (sd-daemon(3))."""
    return f"<{PRIORITIES[level]}>"


def configure(
    settings: LogSettings, stream: TextIO = sys.stderr, *, environ: Mapping[str, str] | None = None
) -> None:
    """Send structlog's and the standard library's logs to `stream`, as JSON or in a form for a terminal.

    If `environ` says that the stream is the journal, each line carries its priority.
    """
    marked = goes_to_journal(environ or {}, stream)
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    takes_json = not console and logging.getLevelNamesMapping()[settings.level.upper()] <= logging.INFO
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if console
        else structlog.processors.JSONRenderer(lambda event, **_: ENCODER.encode(event))
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_exception,
            _redact,
            renderer,
            *([lambda _, method, line: f"{mark(method)}{line}"] if marked else ()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=_LoggerFactory(stream, takes_json=takes_json, marked=marked),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Handler()]
    root.setLevel(logging.WARNING)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class _LoggerFactory(structlog.WriteLoggerFactory):
    """structlog's factory, with what `log_answer` needs to write its line without structlog."""

    def __init__(self, stream: TextIO, *, takes_json: bool, marked: bool) -> None:
        self.stream, self.takes_json = LogStream(stream, mark=mark("warning") if marked else ""), takes_json
        super().__init__(cast(TextIO, self.stream))
        self.mark = mark("info") if marked else ""
        self.seconds = SecondText(to_second)
        self.anonymous = AnonymousRequests()


class LogStream:
    """A stream for log lines that never fails and never blocks, because tokens matter more than logs.

    It writes whole lines. Lines that cannot be written are counted, and a later line says how many were lost. Under
    systemd standard error is a socket to the journal, which would block its writers if it hangs.
    """

    def __init__(self, stream: TextIO, *, mark: str = "") -> None:
        self._stream, self._mark = stream, mark
        self._socket: int | None = None
        with suppress(io.UnsupportedOperation, ValueError, AttributeError):
            if stat.S_ISSOCK(os.fstat(stream.fileno()).st_mode):
                self._socket = stream.fileno()
        self._lost, self._torn = 0, False
        self._waiting: list[str] = []

    def write(self, line: str) -> int:
        """Write a line, after those that wait."""
        if self._waiting:
            self._write_waiting()
        self._write(line, 1)
        return len(line)

    def write_soon(self, line: str) -> None:
        """Write a line at the end of this turn of the event loop, together with the others of that turn."""
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
        """Flush the stream and ignore its errors."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def _put(self, lines: str, count: int) -> int:
        """Write lines; return how many of them are lost."""
        try:
            if self._socket is None:
                self._stream.write(lines)
                return 0
            whole = lines.encode(errors="backslashreplace")
            # The next line must not continue one of which only a part was written.
            whole = b"\n" + whole if self._torn else whole
            connection = socket.socket(fileno=self._socket)
            try:
                sent = connection.send(whole, AT_ONCE)
            finally:
                connection.detach()
        except (OSError, ValueError):
            return count
        self._torn = 0 < sent < len(whole) and whole[sent - 1 : sent] != b"\n"
        return whole.count(b"\n", sent)


class AnonymousRequests:
    """A limit on the log lines of requests without a credential. The others are counted, and reported once a second."""

    def __init__(self, *, every: float = 1.0) -> None:
        self._every, self._is_due = every, False
        self._begin()

    def _begin(self) -> None:
        self._lines: Counter[tuple[str, str | None]] = Counter()
        self._left_out: Counter[str | None] = Counter()
        self._requests = 0

    def is_logged(self, event: str, client: str | None) -> bool:
        """Return whether this request gets a log line."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(self._every, self._report)
        if self._lines.total() < MOST and self._lines[event, client] < MOST_PER_ADDRESS:
            self._lines[event, client] += 1
            return True
        self._requests += 1
        # More addresses are not counted separately, because that would cost memory.
        if client in self._left_out or len(self._left_out) < MOST:
            self._left_out[client] += 1
        return False

    def _report(self) -> None:
        left_out, requests = self._left_out, self._requests
        self._is_due = False
        self._begin()
        if requests:
            [(client, most)] = left_out.most_common(1)
            counts = {"requests": requests, "addresses": len(left_out)}
            structlog.get_logger().warning("requests.not_logged", **counts, client=client, of_client=most)


def log_answer(  # noqa: PLR0917 - named ones take longer
    listener: str,
    route: str | None,
    method: str,
    status: int,
    seconds: float,
    request_id: str,
    client: str | None,
    caller: str | None,
) -> None:
    """Log `request.answered` at level info.

    Most lines are this one, and structlog takes as long for it as the broker for a cached token. So its JSON is built
    here, with the same redaction of each text, and written together with the others of the event loop's turn.
    """
    factory = structlog.get_config()["logger_factory"]
    if caller is None and not _is_logged(factory, "request.answered", client):
        return
    if not isinstance(factory, _LoggerFactory) or not factory.takes_json:
        structlog.get_logger().info(
            "request.answered",
            listener=listener,
            route=route,
            method=method,
            status=status,
            ms=round(seconds * 1000, 1),
            request_id=request_id,
            client=client,
            caller=caller,
        )
        return
    at = time.time()  # noqa: TID251 - as structlog stamps the others
    what, who = _what(listener, route, method, status), _who(client, caller)
    factory.stream.write_soon(
        f'{factory.mark}{what}, "ms": {seconds * 1000:.1f}, "request_id": '
        f'{encode_basestring_ascii(_text(request_id))}{who}, "event": "request.answered", "level": "info"'
        f', "timestamp": "{factory.seconds.of(at)}.{int(at % 1 * 1e6):06d}Z"}}\n'
    )


def log_malformed(client: str | None, status: int | None, error: object) -> None:
    """Log `request.malformed` at level warning, without anything that was sent."""
    if _is_logged(structlog.get_config()["logger_factory"], "request.malformed", client):
        structlog.get_logger().warning("request.malformed", status=status, error=type(error).__name__)


def _is_logged(factory: object, event: str, client: str | None) -> bool:
    return not isinstance(factory, _LoggerFactory) or factory.anonymous.is_logged(event, client)


def take_crashes() -> None:
    """Log uncaught exceptions as events with their class and place, because Python would print their text."""

    def crashed(event: str, exc: BaseException | None) -> None:
        structlog.get_logger().error(event, exc_info=exc)

    sys.excepthook = lambda _, exc, __: crashed("broker.crashed", exc)
    sys.unraisablehook = lambda crash: crashed("error.unraisable", crash.exc_value)
    threading.excepthook = lambda crash: crashed("thread.crashed", crash.exc_value)


class _Handler(logging.Handler):
    """Logs the records of other libraries without their texts, which quote requests and SQL."""

    def emit(self, record: logging.LogRecord) -> None:
        exc = record.exc_info[1] if record.exc_info else None
        event = "http.malformed_request" if record.name == "aiohttp.server" else "library.logged"
        structlog.get_logger().warning(event, logger=record.name, exc_info=exc)


def _name_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace an exception by its class and place, because its text may contain a body or a header."""
    exc = event.pop("exc_info", None)
    if exc is True:
        exc = sys.exc_info()[1]
    if isinstance(exc, BaseException):
        event["error"] = type(exc).__name__
        places, trace = [], exc.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{code.co_filename.rsplit('/broker/', 1)[-1]}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        event["at"] = places[-FRAMES:]
    return event


@lru_cache(maxsize=4096)
def _what(listener: str, route: str | None, method: str, status: int) -> str:
    return (
        f'{{"listener": {_quoted(listener)}, "route": {_quoted(route)}, "method": {_quoted(method)}'
        f', "status": {status}'
    )


@lru_cache(maxsize=4096)
def _who(client: str | None, caller: str | None) -> str:
    return f', "client": {_quoted(client)}, "caller": {_quoted(caller)}'


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(_text(text))


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # By exact type first, which is fast: nearly all values are of these types.
    return {key: value if type(value) in PLAIN else _shown(value) for key, value in event.items()}


def _shown(value: object) -> object:
    """Return texts redacted, numbers as they are, and the class of anything else, whose repr may contain secrets."""
    match value:
        case str():
            return _text(value)
        case None | bool() | int() | float():
            return value
        case Secret():
            return "***"
        case Mapping():
            return {_text(str(key)): _shown(member) for key, member in value.items()}
        case list() | tuple():
            return [_shown(member) for member in value]
        case _:
            return type(value).__name__


def _text(value: str) -> str:
    """Return the text on one line, without credentials and control characters."""
    # Everything that looks like a credential contains one of these, and little else does.
    suspicious = "_" in value or "earer" in value.lower() or "eyJ" in value
    text = CREDENTIAL.sub("***", value) if suspicious else value
    if not text.isprintable():
        text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return text if len(text) <= MAX_FIELD else f"{text[:MAX_FIELD]}…"
