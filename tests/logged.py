"""What is logged in this process, as the broker would print it."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from broker.config.settings import LogSettings
from broker.observe import logs


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """At its most talkative, while the block lasts."""
    root, written = logging.getLogger(), io.StringIO()
    before = (root.handlers[:], root.level)
    logs.configure(LogSettings(format="json", level="debug"), written)
    yield written
    structlog.reset_defaults()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
