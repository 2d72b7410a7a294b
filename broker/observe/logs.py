"""Logs as events: a dotted past-tense name, values as fields, one line, never a secret."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from broker.config.settings import LogSettings
from broker.model import Secret
from broker.observe.stream import Unfailing

QUIET = (
    "aiosqlite",
    "aiohttp",
    "asyncio",
    "aiohttp.access",
    "aiohttp.client",
    "aiohttp.web",
    "aiohttp.server",
)
"""aiosqlite logs every SQL parameter at DEBUG; aiohttp's access log writes queries with codes and states."""
MAX_FIELD = 500


def configure(settings: LogSettings, stream: TextIO = sys.stderr) -> None:
    """Send structlog and the standard library's logs to `stream`, as JSON or for a person."""
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_exception,
            _redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, Unfailing(stream))),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Handler()]
    root.setLevel(logging.WARNING)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Handler(logging.Handler):
    """Other libraries' records: logger and class of error only; their texts quote requests and SQL."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        event = "http.malformed_request" if record.name == "aiohttp.server" else "library.logged"
        structlog.get_logger().warning(event, logger=record.name, error=error)


def _name_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception becomes where it was raised and its class: its text could hold a body or a header."""
    exc = event.pop("exc_info", None)
    if exc is True:
        exc = sys.exc_info()[1]
    if isinstance(exc, BaseException):
        event["error"] = type(exc).__name__
        event["at"] = _places(exc)
    return event


def _places(exc: BaseException) -> list[str]:
    frames = []
    trace = exc.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rsplit('/broker/', 1)[-1]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-8:]


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, Secret):
            event[key] = "***"
        elif isinstance(value, str) and len(value) > MAX_FIELD:
            event[key] = value[:MAX_FIELD] + "…"
    return event
