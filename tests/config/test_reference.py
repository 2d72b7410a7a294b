"""docs/configuration.md names every key that the program reads, with the default that it has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.config import load
from tests import pages
from tests.test_docs import known_keys

HEADS = ("key", "value", "default", "meaning")
PROVIDER = """
[providers.it]
type = "{type}"
client_id = "c"
client_secret = "s"
authorize_url = "https://id.example.com/a"
token_url = "https://id.example.com/t"
rotation = "grace"
{line}
"""
TEXTS = {
    "providers": PROVIDER.format(type="oauth2", line="{line}"),
    "kit": PROVIDER.format(type="kit", line="{line}"),
    "plugin": '[plugin]\n{line}\n[plugin.clients.x]\nclient_id = "c"\nclient_secret = "s"\nredirect_uris = ["https://a/"]',
    "plugin.clients": '[plugin.clients.x]\nclient_id = "c"\nclient_secret = "s"\nredirect_uris = ["https://a/"]\n{line}',
    "callers": '[callers.x]\nissuer = "i"\nsubject = "s"\njwks_url = "https://i.example.com/k"\n{line}',
}
"""Where a key of a table needs others: a configuration that has them."""


def documented() -> dict[str, tuple[pages.Table, ...]]:
    """Return the tables of keys, by the name of the table of the file."""
    found = {}
    for one in pages.sections():
        if name := re.fullmatch(r"`\[(.*?)(\.NAME)?\]`", one.title):
            below = pages.tables_in(one.page, one.text)
            found[name[1]] = tuple(table for table in below if table.head == HEADS)
    return found


def test_every_key_is_documented(tmp_path: Path) -> None:
    """None is missing, and none is named that the program does not know."""
    known = known_keys(tmp_path)
    tables = known[""] | {"plugin.clients"}

    named = {name: pages.names(*tables) for name, tables in documented().items()}
    named["plugin"].add("clients")

    assert tables == set(named)
    assert {name: keys for name, keys in known.items() if name in named} == named


def defaults() -> Iterator[tuple[str, str, str]]:
    """Yield the table, the key and the default where that is a value of TOML."""
    for name, tables in documented().items():
        for table in tables:
            for key, _, default, _ in table.rows:
                if value := re.fullmatch("`([^`]+)`", default):
                    yield name, key.strip("`"), value[1]


@pytest.mark.parametrize(("table", "key", "value"), list(defaults()))
def test_default_is_the_programs(tmp_path: Path, table: str, key: str, value: str) -> None:
    """Giving it changes nothing."""
    text = TEXTS.get("kit" if key == "open_install" else table, f"[{table}]\n{{line}}\n")
    path = tmp_path / "config.toml"
    path.write_text(text.format(line=f"{key} = {value}"))
    given = load(path, environ={})
    path.write_text(text.format(line=""))

    assert load(path, environ={}) == given
