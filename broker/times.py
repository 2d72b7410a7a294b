"""Formats times for users (“in 3 h”, “2 min ago”), log lines and headers."""

from collections.abc import Callable
from datetime import UTC, datetime

STEPS = ((86400.0, 48 * 3600.0, "d"), (3600.0, 3600.0, "h"), (60.0, 60.0, "min"), (1.0, 1.0, "s"))
"""Seconds in a unit, the least seconds for which it is used, its name."""


class SecondText:
    """A text that depends on the current second and is made once a second."""

    def __init__(self, make: Callable[[int], str]) -> None:
        self._make = make
        self._second, self._text = -1, ""

    def of(self, at: float) -> str:
        """Return the text for the time `at`, epoch seconds."""
        second = int(at)
        if second != self._second:
            self._second, self._text = second, self._make(second)
        return self._text


def to_second(second: int) -> str:
    """Return a time in UTC like `2026-11-22T10:00:00`."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def moment(at: str) -> float:
    """Return an RFC 3339 time in epoch seconds."""
    return datetime.fromisoformat(at).timestamp()


def span(seconds: float) -> str:
    """Return a duration like `3 h`, in whole units, rounded down."""
    for unit, least, name in STEPS:
        if seconds >= least:
            return f"{int(seconds // unit)} {name}"
    return "0 s"


def relative(at: str | None, now: float) -> str:
    """Return an RFC 3339 time relative to `now`, like `in 3 h`; a dash for None."""
    if at is None:
        return "-"
    ahead = moment(at) - now
    if abs(ahead) < 1:
        return "now"
    return f"in {span(ahead)}" if ahead > 0 else f"{span(-ahead)} ago"


def both(at: str | None, now: float) -> str:
    """Return an RFC 3339 time relative to `now` and as it is; a dash for None."""
    return "-" if at is None else f"{relative(at, now)} ({at})"
