"""Durations as people write them: "90s", "15m", "48h", "30d"."""

import re

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
EXPECTED = 'a duration as in "90s", "15m", "48h" or "30d"'


def parse_duration(text: str) -> float | None:
    """Seconds, or None where it is no duration."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
    return float(found[1]) * UNITS[found[2]] if found else None
