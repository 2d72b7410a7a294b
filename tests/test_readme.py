"""The README says what the program does: keys, routes, codes, metrics, commands, reasons, targets."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from aiohttp import web

from broker import errors
from broker.cli import broker
from broker.config import load
from broker.model import EventKind, Reason
from broker.observe.metrics import Metrics
from broker.wire import WHAT_HAPPENED, WHAT_TO_DO
from tests.house import House

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PUBLIC_PEM = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""


def reference_block() -> str:
    [block] = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    return str(block)


def commands(group: click.Group, name: str = "broker") -> Iterator[tuple[str, click.Command]]:
    for part, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {part}")
        else:
            yield f"{name} {part}", command


def test_reference_block_is_a_valid_configuration(tmp_path: Path) -> None:
    """Every key of the README is known to the program; commented-out ones too."""
    block = re.sub(r"^# (\w+ *= )", r"\1", reference_block(), flags=re.MULTILINE)
    (tmp_path / "config.toml").write_text(block)
    (tmp_path / "login.pem").write_text(PUBLIC_PEM)

    settings = load(tmp_path / "config.toml", environ={})

    assert {"kit", "kustomer", "anything"} == set(settings.providers)


def test_every_key_the_program_reads_is_in_the_block() -> None:
    """No key is read that nobody can find."""
    read = set()
    for path in (ROOT / "broker" / "config").glob("*.py"):
        source = path.read_text()
        read |= set(
            re.findall(r'table\.(?:text|flag|integer|choice|duration|texts|secrets|raw)\(\s*"(\w+)"', source)
        )
        read |= set(re.findall(r'_(?:listens|tls)\(table, "(\w+)"', source))
    named = set(re.findall(r"(\w+)\s*=", reference_block()))

    assert len(read) > 30
    assert set() == read - named


def test_defaults_of_the_block_are_the_programs(tmp_path: Path) -> None:
    """`[refresh]` as shown is what an empty file gives."""
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "shown.toml").write_text(
        "\n".join(line for line in _section("refresh") if "=" in line).join(["[refresh]\n", "\n"])
    )

    assert (
        load(tmp_path / "config.toml", environ={}).refresh
        == load(tmp_path / "shown.toml", environ={}).refresh
    )


def _section(name: str) -> list[str]:
    return reference_block().partition(f"[{name}]")[2].partition("\n[")[0].splitlines()


async def test_every_route_is_named(house: House) -> None:
    """Of all three listeners, with its method where a program calls it."""
    listeners = house.broker.listeners

    missing = [
        f"{method} {path}"
        for application in (listeners.internal, listeners.public, listeners.admin)
        for method, path in routes(application)
        if f"`{method} {path}`" not in README and not path.startswith("/static/") and not path.endswith("}/")
    ]

    assert [] == missing


def routes(application: web.Application) -> set[tuple[str, str]]:
    return {
        (route.method, route.resource.canonical)
        for route in application.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


def test_every_error_code_is_explained() -> None:
    """With its status."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.BrokerError):
            assert f"| `{kind.code}` | {kind.status} | {kind.title} |" in README


def test_every_reason_is_explained() -> None:
    """In the very words of the program."""
    for reason in Reason:
        assert f"| `{reason}` | {WHAT_HAPPENED[reason]} | {WHAT_TO_DO[reason]} |" in README


def test_every_event_is_named() -> None:
    """Each kind that people can hear of."""
    assert [] == [kind for kind in EventKind if f"`{kind}`" not in README]


def test_every_metric_is_named() -> None:
    """And none that is not there."""
    known = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in Metrics().registry.collect()
    }
    named = set(re.findall(r"^\| `(broker_\w+)`", README, re.MULTILINE))

    assert known == named


def test_every_command_is_named_with_its_help() -> None:
    """And none that is not there."""
    known = {f"| `{name}` | {command.get_short_help_str(90)} |" for name, command in commands(broker)}
    named = set(re.findall(r"^\| `broker .*$", README, re.MULTILINE))

    assert known == named


def test_every_make_target_is_named() -> None:
    """As `make` prints them."""
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert len(targets) >= 5
    assert [] == [target for target in targets if f"`make {target}`" not in README]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:broker|tests)/[\w/.]+)`", README))))
def test_every_file_that_is_named_exists(name: str) -> None:
    """A path in the README leads somewhere."""
    assert (ROOT / name).exists()


def test_map_of_the_house_names_every_room() -> None:
    """Whoever looks for a room finds it."""
    rooms = {
        path.name.removesuffix(".py")
        for path in (ROOT / "broker").iterdir()
        if path.suffix in ("", ".py") and path.name not in ("__pycache__", "__init__.py")
    }
    plan = README.partition("## The map of the house")[2].partition("## ")[0]

    assert set() == {room for room in rooms if not re.search(rf"\b{re.escape(room)}\b", plan)}


def test_repository_configuration_is_what_make_run_promises() -> None:
    """Loopback only, sandbox and demo on."""
    data = tomllib.loads((ROOT / "config.toml").read_text())

    assert data["sandbox"] == {"enabled": True, "listen": "127.0.0.1:8089", "demo": True}
    assert all(data["server"][key].startswith("127.0.0.1:") for key in ("internal", "public"))
