"""Reads one TOML table, key by key; whatever is wrong becomes a problem, and reading goes on."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from broker.config.durations import EXPECTED, parse_duration
from broker.config.problems import Problems, quoted
from broker.config.secrets import FORMS, SecretMissing, SecretReader
from broker.config.urls import shown
from broker.model import Secret

T = TypeVar("T")
K = TypeVar("K")
MOST_SHOWN = 10.0**12
"""Numbers from here on are not written out: TOML allows any length, str() does not."""
REQUIRED: Any = object()
"""The default of a key that must be there."""
PLAIN = re.compile(r"[A-Za-z0-9_.\[\]-]*", re.ASCII)
"""What a key may hold to be told as it stands."""


class Table:
    """A table being read. `done()` complains of every key that nobody asked for."""

    def __init__(
        self, data: Mapping[str, Any], *, name: str, problems: Problems, secrets: SecretReader
    ) -> None:
        self._data, self._name, self._problems, self._secrets = data, name, problems, secrets
        self._known: list[str] = []

    def key(self, key: str) -> str:
        """The key's full name."""
        part = key if PLAIN.fullmatch(key) else quoted(key)
        return ".".join(one for one in (self._name, part) if one)

    def has(self, key: str) -> bool:
        return key in self._data

    def wrong(self, key: str, found: str, expected: str) -> None:
        self._problems.add(self.key(key), found, expected)

    def text(self, key: str, default: T = REQUIRED) -> str | T:
        return self._typed(key, str, default, "a string")

    def flag(self, key: str, default: bool) -> bool:
        return self._typed(key, bool, default, "true or false")

    def integer(self, key: str, default: T = REQUIRED, *, least: int = 0) -> int | T:
        value = self._typed(key, int, default, "a whole number")
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            self.wrong(key, str(value), f"a whole number of at least {least}")
            return default
        return value

    def choice(self, key: str, choices: Sequence[str], default: T) -> str | T:
        value = self._typed(key, str, default, _one_of(choices))
        if value is not default and value not in choices:
            self.wrong(key, quoted(value) if isinstance(value, str) else _kind_of(value), _one_of(choices))
            return default
        return value

    def duration(self, key: str, default: str, *, least: float = 0.0) -> float:
        """Seconds."""
        usual = parse_duration(default) or 0.0
        value = self._take(key, default)
        seconds = parse_duration(value) if isinstance(value, str) else None
        if seconds is None:
            hint = " (write it with its unit)" if is_number(value) else ""
            self.wrong(key, f"{as_written(value)}{hint}", EXPECTED)
            return usual
        if seconds < least:
            self.wrong(key, as_written(value), f"at least {least:g} s")
            return usual
        return seconds

    def texts(self, key: str, default: Iterable[str]) -> tuple[str, ...]:
        value = self._take(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong(key, _kind_of(value), "a list of strings")
            return tuple(default)
        return tuple(value)

    def resolve(
        self, key: str, value: object, *, private: bool = True, ascii_only: bool = False
    ) -> Secret | None:
        """A secret given as a value."""
        try:
            return self._secrets.read(value, private=private, ascii_only=ascii_only)
        except SecretMissing as exc:
            # The value itself is never shown: a secret in the wrong place is still one.
            self._problems.lines.append(f"{self.key(key)}: found {exc}")
            return None

    def secrets(self, key: str, *, most: int, ascii_only: bool = True) -> tuple[Secret, ...]:
        """One secret, or a list of up to `most`; none where the key is absent."""
        value = self._take(key, None)
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        if not 1 <= len(values) <= most:
            self.wrong(key, f"a list of {len(values)}", f"{FORMS}, or a list of at most {most}")
            return ()
        found = (self.resolve(key, one, ascii_only=ascii_only) for one in values)
        return tuple(secret for secret in found if secret is not None)

    def raw(self, key: str, default: object = None) -> Any:
        """The value as it stands in the file."""
        return self._take(key, default)

    def table(self, key: str) -> "Table":
        """A table below this one; an empty one where it is absent."""
        value = self._take(key, {})
        if not isinstance(value, dict):
            self.wrong(key, _kind_of(value), "a table")
            value = {}
        return Table(value, name=self.key(key), problems=self._problems, secrets=self._secrets)

    def tables(self, key: str) -> dict[str, "Table"]:
        """The tables below a table of tables; what is none is told, and left out."""
        outer = self.table(key)
        found = {name: outer.table(name) for name in outer._data}
        return {name: table for name, table in found.items() if isinstance(outer._data[name], dict)}

    def each(self, key: str) -> list["Table"]:
        """A list of tables."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(key, _kind_of(value), "a list of tables")
            return []
        return [
            Table(item, name=f"{self.key(key)}[{number}]", problems=self._problems, secrets=self._secrets)
            for number, item in enumerate(value)
        ]

    def done(self) -> None:
        """Every key that was not asked for is unknown."""
        for key in self._data:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                hint = (
                    f"did you mean {self.key(near[0])}?"
                    if near
                    else f"one of: {', '.join(sorted(set(self._known)))}"
                )
                self._problems.lines.append(f"{self.key(key)}: unknown key; {hint}")

    def _take(self, key: str, default: object) -> Any:
        self._known.append(key)
        return self._data.get(key, default)

    def _typed(self, key: str, kind: type[K], default: T, expected: str) -> K | T:
        value = self._take(key, default)
        if value is REQUIRED:
            self.wrong(key, "nothing", expected)
            return kind()
        if value is default:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.wrong(key, _kind_of(value), expected)
            return kind() if default is REQUIRED else default
        return value


def checked(table: Table, key: str, value: str | None, check: Callable[[str], str | None]) -> str | None:
    """`value`, unless `check` says what would have been expected instead."""
    given = isinstance(table.raw(key), str)
    if given and value is not None and (expected := check(value)):
        table.wrong(key, quoted(shown(value)), expected)
        return None
    return value


def _one_of(choices: Sequence[str]) -> str:
    return " or ".join(f'"{choice}"' for choice in choices)


def as_written(value: object) -> str:
    """A text or a number as it stands in the file; of anything else its kind only."""
    if isinstance(value, str):
        return quoted(value)
    return str(value) if is_number(value) and abs(value) < MOST_SHOWN else _kind_of(value)


def is_number(value: object) -> TypeGuard[int | float]:
    """TOML's numbers; Python counts true and false among them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind_of(value: object) -> str:
    """A value of the wrong type: its kind only, since it may be a secret in the wrong place."""
    names = {
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), type(value).__name__)
