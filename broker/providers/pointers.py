"""JSON pointers (RFC 6901)."""

from typing import Any


def pointed(value: Any, pointer: str) -> Any:
    """The value at a pointer, or None where there is none."""
    try:
        for step in pointer.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return value
