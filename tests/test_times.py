"""Moments are told as people say them."""

import pytest

from broker.times import both, relative, span
from tests.cli.stub import NOW


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (47 * 3600 + 3599, "47 h"),
        (48 * 3600, "2 d"),
        (400 * 86400, "400 d"),
    ],
)
def test_a_span_is_told_in_its_largest_unit(seconds: float, expected: str) -> None:
    """Whole units, rounded down; days only from two on."""
    assert expected == span(seconds)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-22T13:30:00Z", "in 3 h"),
        ("2026-11-22T09:58:00Z", "2 min ago"),
        ("2026-11-22T10:00:00Z", "now"),
        ("2026-11-22T11:00:30+01:00", "in 30 s"),
        (None, "-"),
    ],
)
def test_a_moment_is_told_from_now(at: str | None, expected: str) -> None:
    """Ahead, behind, now, or never."""
    assert expected == relative(at, NOW)


def test_both_ways_of_telling_stand_side_by_side() -> None:
    """Relative first."""
    assert "in 3 h (2026-11-22T13:30:00Z)" == both("2026-11-22T13:30:00Z", NOW)
