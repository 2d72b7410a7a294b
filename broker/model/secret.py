"""A string that does not print."""

import hmac
from typing import Never


class Secret:
    """A string that does not print, pickle, copy or compare in variable time; `reveal()` is the only way out.

    It has no hash either: that would be a fingerprint, and sets and dicts compare in variable time.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # this is how a class says that it has none

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself. Call it only where the bytes leave for where they belong."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def __reduce__(self) -> Never:
        raise TypeError("a Secret cannot be pickled or copied")

    def __getstate__(self) -> Never:
        raise TypeError("a Secret cannot be pickled or copied")

    def _bytes(self) -> bytes:
        # A lone surrogate would raise UnicodeEncodeError, which carries the whole string with it.
        return self._value.encode("utf-8", "surrogatepass")
