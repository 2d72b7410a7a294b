"""What is wrong with a configuration, collected so that all of it is said at once."""

import json
from collections.abc import Iterable

MOST_SHOWN = 80


class ConfigError(Exception):
    """The configuration is not valid; `problems` has one line for each mistake. No line holds a secret."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class Problems:
    """Mistakes found so far, each with the key's full name, what was found and what is allowed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, key: str, found: str, expected: str) -> None:
        self.lines.append(f"{key}: found {found}; expected {expected}")

    def raise_if_any(self) -> None:
        if self.lines:
            raise ConfigError(self.lines)


def quoted(text: str) -> str:
    """As TOML writes it, on one line whatever it holds, cut where it is long."""
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    return json.dumps(shown, ensure_ascii=not shown.isprintable())
