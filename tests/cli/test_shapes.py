"""What `--json` prints, as scripts rely on it: every member of every listing and its type."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.golden import SHAPES
from tests.commanding import Commands, commands_at
from tests.foreign import issued_elsewhere, line, write_lines
from tests.house import House

TYPED = {
    "accounts list": ("accounts", "list", "--json"),
    "accounts show": ("accounts", "show", "acme", "--json"),
    "accounts import": ("accounts", "import", "grants.jsonl", "--json"),
    "audit verify": ("audit", "verify", "--json"),
    "callers list": ("callers", "list", "--json"),
    "check": ("check", "--json"),
    "events": ("events", "--json"),
    "keys list": ("keys", "list", "--json"),
    "plugin grants": ("plugin", "grants", "--json"),
    "providers list": ("providers", "list", "--json"),
    "token": ("token", "acme", "--format", "json"),
    "version": ("version", "--json"),
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


async def printed(commands: Commands, words: tuple[str, ...], folder: Path) -> Any:
    [pair] = issued_elsewhere(commands.house, 1)
    file = write_lines(folder / "grants.jsonl", [line("other", pair)])
    result = await commands.run(*(str(file) if word == "grants.jsonl" else word for word in words))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", TYPED)
async def test_shape_is_what_it_was(house: House, tmp_path: Path, name: str) -> None:
    """A member that goes or changes its type breaks somebody's script; a new one is written down here."""
    await house.connect()

    async with commands_at(house) as commands:
        value = await printed(commands, TYPED[name], tmp_path)

    assert SHAPES[name] == shape(value)
