"""Reads TOML tables key by key. Each mistake becomes a problem, and reading continues."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from broker.config.secrets import FORMS, SecretMissing, SecretReader
from broker.config.values import DURATION, parse_duration, shown
from broker.model import Secret

T = TypeVar("T")
K = TypeVar("K")
Check = Callable[[str], str | None]
"""A function that returns what is expected in place of a text, or None if the text is valid."""
MOST_SHOWN = 80
MOST_NUMBER = 10.0**12
"""Numbers from here on are not printed, because TOML allows more digits than str()."""
TWO_SECRETS = f"{FORMS}, or a list of at most 2"
REQUIRED: Any = object()
"""The default of a required key."""
PLAIN = re.compile(r"[A-Za-z0-9_.\[\]-]*", re.ASCII)
"""The keys that are printed without quotes."""
KINDS = {str: "a string", int: "a number", float: "a number", bool: "true or false"}
KINDS |= {list: "a list", dict: "a table"}


class ConfigError(Exception):
    """The configuration is invalid; `problems` has one line for each mistake, without secrets."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


def key(read: Callable[..., object], *arguments: object, **limits: object) -> Mapping[str, Any]:
    """Return the metadata of a field that is a key of the file: the method of `Table` that reads it, its arguments."""
    return {
        "read": lambda table, name: read(table, name, *arguments, **limits),
        "form": (read.__name__, arguments, limits),
        "name": "",
    }


def form(text: str, default: str = "none", *, name: str = "") -> Mapping[str, Any]:
    """Return the metadata of a field whose key is read elsewhere: its form and default in words or as TOML.

    `name` is the key's where it is not the field's.
    """
    return {"form": text, "default": default, "name": name}


class Table:
    """A table of the file that is being read. `done` reports every key that was not read."""

    def __init__(
        self, data: Mapping[str, Any], *, problems: list[str], secrets: SecretReader, name: str = ""
    ) -> None:
        self._data, self._name, self._problems, self.sources = data, name, problems, secrets
        self.folder, self.environ = secrets.folder, secrets.environ
        self._known: list[str] = []

    def key(self, key: str) -> str:
        """Return the full name of a key."""
        part = key if PLAIN.fullmatch(key) else quoted(key)
        return ".".join(one for one in (self._name, part) if one)

    def has(self, key: str) -> bool:
        """Return whether the file has the key."""
        return key in self._data

    def wrong(self, key: str, found: str, expected: str) -> None:
        """Report a mistake in the value of a key."""
        self._problems.append(f"{self.key(key)}: found {found}; expected {expected}")

    def section(self, kind: type[T], **given: object) -> T:
        """Return the table as settings: each field is read as its `key` declares, all others are `given`."""
        read = {
            field.name: field.metadata["read"](self, field.name)
            for field in fields(kind)  # type: ignore[arg-type]
            if "read" in field.metadata and field.name not in given
        }
        self.done()
        return kind(**given, **read)

    def text(
        self,
        key: str,
        default: T = REQUIRED,
        check: Check | None = None,
        shown: Callable[[str], str] = str,
    ) -> str | T:
        """Return a text; `shown` removes what may be secret from a wrong one."""
        value = self._typed(key, str, default, "a string")
        given = self._data.get(key)
        if check is not None and isinstance(given, str) and (expected := check(given)):
            self.wrong(key, quoted(shown(given)), expected)
            return "" if default is REQUIRED else default
        return value

    def url(self, key: str, default: str, check: Check) -> str:
        """Return an address of the broker itself, without a slash at its end."""
        return self.text(
            key, default, lambda url: check(url.rstrip("/")), lambda url: shown(url.rstrip("/"))
        ).rstrip("/")

    def path(self, key: str, default: str) -> Path:
        """Return an absolute path; a relative one is below the folder of the file."""
        return self.folder / self.text(key, default)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        return self._typed(key, bool, default, "true or false")

    def integer(self, key: str, default: T = REQUIRED, *, least: int = 0) -> int | T:
        """Return a whole number of at least `least`."""
        value = self._typed(key, int, default, "a whole number")
        if isinstance(value, int) and value < least:
            self.wrong(key, str(value), f"a whole number of at least {least}")
            return default
        return value

    def choice(self, key: str, choices: Sequence[str], default: T) -> str | T:
        """Return one of the choices."""
        expected = " or ".join(f'"{choice}"' for choice in choices)
        value = self._typed(key, str, default, expected)
        if isinstance(value, str) and value not in choices:
            self.wrong(key, quoted(value), expected)
            return default
        return value

    def duration(self, key: str, default: str, *, least: float = 0.0, most: float | None = None) -> float:
        """Return a duration in seconds."""
        value = self.raw(key, default)
        seconds = parse_duration(value) if isinstance(value, str) else None
        if seconds is None:
            hint = " (write it with its unit)" if is_number(value) else ""
            self.wrong(key, f"{as_written(value)}{hint}", DURATION)
        elif seconds < least:
            self.wrong(key, as_written(value), f"at least {least:g} s")
        else:
            if most is not None and seconds > most:
                self.wrong(key, as_written(value), f"at most {most / 86400:g}d")
            return seconds
        return parse_duration(default) or 0.0

    def texts(self, key: str, default: Iterable[str] = (), check: Check | None = None) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self.raw(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong(key, kind_of(value), "a list of strings")
            return tuple(default)
        for item in value:
            if check is not None and (expected := check(item)):
                self.wrong(key, quoted(item), expected)
        return tuple(value)

    def resolve(
        self, key: str, value: object, *, private: bool = True, ascii_only: bool = False
    ) -> Secret | None:
        """Return the secret that a value names, or None with a problem."""
        try:
            return self.sources.read(value, private=private, ascii_only=ascii_only)
        except SecretMissing as exc:
            # The value itself is never shown, because it may be a secret in the wrong place.
            self._problems.append(f"{self.key(key)}: found {exc}")
            return None

    def secrets(
        self, key: str, expected: str = TWO_SECRETS, *, private: bool = True, ascii_only: bool = True
    ) -> tuple[Secret, ...]:
        """Return one secret, two while it is being replaced, or none if the key is absent."""
        value = self.raw(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if isinstance(value, list) and not 1 <= len(value) <= 2:
            self.wrong(key, f"a list of {len(value)}", expected)
            return ()
        found = (self.resolve(key, one, private=private, ascii_only=ascii_only) for one in values)
        return tuple(secret for secret in found if secret is not None)

    def raw(self, key: str, default: object = None) -> Any:
        """Return the value as it is in the file."""
        self._known.append(key)
        return self._data.get(key, default)

    def table(self, key: str) -> "Table":
        """Return a table below this one; an empty one if it is absent."""
        value = self.raw(key, {})
        if not isinstance(value, dict):
            self.wrong(key, kind_of(value), "a table")
            value = {}
        return Table(value, name=self.key(key), problems=self._problems, secrets=self.sources)

    def tables(self, key: str) -> dict[str, "Table"]:
        """Return the tables in a table of tables; other values become problems."""
        outer = self.table(key)
        found = {name: outer.table(name) for name in outer._data}
        return {name: table for name, table in found.items() if isinstance(outer._data[name], dict)}

    def each(self, key: str) -> list["Table"]:
        """Return the tables in a list of tables."""
        value = self.raw(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(key, kind_of(value), "a list of tables")
            return []
        return [
            Table(item, name=f"{self.key(key)}[{number}]", problems=self._problems, secrets=self.sources)
            for number, item in enumerate(value)
        ]

    def knows(self, *keys: str) -> None:
        """Accept keys that are read only under a condition."""
        self._known += keys

    def done(self) -> None:
        """Report every key that was not read as unknown."""
        for key in self._data:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                hint = f"one of: {', '.join(sorted(set(self._known)))}"
                hint = f"did you mean {self.key(near[0])}?" if near else hint
                self._problems.append(f"{self.key(key)}: unknown key; {hint}")

    def _typed(self, key: str, kind: type[K], default: T, expected: str) -> K | T:
        value = self.raw(key, default)
        if value is REQUIRED:
            self.wrong(key, "nothing", expected)
            return kind()
        if value is default or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
            return value
        self.wrong(key, kind_of(value), expected)
        return kind() if default is REQUIRED else default


def quoted(text: str) -> str:
    """Return the text as a TOML string on one line, shortened if it is long."""
    cut = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    return json.dumps(cut, ensure_ascii=not cut.isprintable())


def as_written(value: object) -> str:
    """Return a text or a number as it is in the file; for other values only their kind."""
    if isinstance(value, str):
        return quoted(value)
    return str(value) if is_number(value) and abs(value) < MOST_NUMBER else kind_of(value)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number in TOML; Python counts true and false as numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def kind_of(value: object) -> str:
    """Return the kind of a value of the wrong type; the value may be a secret in the wrong place."""
    return KINDS.get(type(value), type(value).__name__)
