"""What `--json` prints, as scripts rely on it: every member of every listing and its type."""

import json
from pathlib import Path
from typing import Any

from tests.cli.golden import SHAPES
from tests.commanding import commands_at
from tests.foreign import issued_elsewhere, line, write_lines
from tests.house import House

TYPED = {
    "accounts list": ("accounts", "list", "--json"),
    "accounts show": ("accounts", "show", "acme", "--json"),
    "audit verify": ("audit", "verify", "--json"),
    "callers list": ("callers", "list", "--json"),
    "check": ("check", "--json"),
    "events": ("events", "--json"),
    "keys list": ("keys", "list", "--json"),
    "plugin grants": ("plugin", "grants", "--json"),
    "providers list": ("providers", "list", "--json"),
    "token": ("token", "acme", "--format", "json"),
    "version": ("version", "--json"),
    "accounts import": ("accounts", "import", "--json"),
}


def shape(value: Any) -> Any:
    """Members and types in the place of values; of a list its first."""
    match value:
        case dict():
            return {name: shape(member) for name, member in value.items()}
        case list():
            return [shape(value[0])] if value else []
        case None:
            return "null"
        case _:
            return type(value).__name__


async def test_shapes_are_what_they_were(house: House, tmp_path: Path) -> None:
    """A member that goes or changes its type breaks somebody's script; a new one is written down here."""
    await house.connect()
    [pair] = issued_elsewhere(house, 1)
    file = write_lines(tmp_path / "grants.jsonl", [line("other", pair)])

    async with commands_at(house) as commands:
        results = {name: await commands.run(*words, *_more(words, file)) for name, words in TYPED.items()}

    assert SHAPES == {name: shape(json.loads(result.stdout)) for name, result in results.items()}


def _more(words: tuple[str, ...], file: Path) -> tuple[str, ...]:
    return (str(file),) if "import" in words else ()
