"""The Tab key: click's own mechanism, with names from the running broker, and silence where none runs."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from broker.cli import broker as command_line
from broker.cli.command import CommandContext
from tests.fakes.clock import FakeClock

from .stub import NOW, Stub, account, caller, provider


async def completed(config: Path, *words: str) -> list[str]:
    """What the Tab key offers behind these words; the last one is begun."""

    def ask() -> list[CompletionItem]:
        context = CommandContext(config=str(config), environ={}, clock=FakeClock(NOW))
        shell = ShellComplete(command_line, {"obj": context}, "broker", "_BROKER_COMPLETE")
        return shell.get_completions(list(words[:-1]), words[-1])

    return [item.value for item in await asyncio.to_thread(ask)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("token", "ac"), ["acme", "acorn"]),
        (("token", "acm"), ["acme"]),
        (("accounts", "show", "z"), ["zenith"]),
        (("accounts", "freeze", ""), ["acme", "acorn"]),
        (("accounts", "list", "--provider", "ku"), ["kustomer"]),
        (("install-link", "k"), ["kit", "kustomer"]),
        (("callers", "rotate", "r"), ["reporting"]),
        (("accounts", "restore", ""), ["gone"]),
        (("providers", "resume", "kit"), ["kit"]),
        (("accounts", "fr"), ["freeze"]),
        (("accounts", "list", "--status", "un"), ["uncertain"]),
    ],
    ids=" ".join,
)
async def test_names_are_the_running_brokers(
    stub: Stub, config: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    """Accounts, providers, callers; the rest is click's own."""
    stub.accounts = {name: account(name) for name in ("acme", "acorn", "zenith")}
    stub.removed = {"gone": account("gone")}
    stub.providers = {name: provider(name) for name in ("kit", "kustomer")}
    stub.callers = {name: caller(name, accounts=["*"], permissions=[]) for name in ("reporting", "billing")}

    found = await completed(config, *words)

    assert expected == found


async def test_config_given_on_the_line_counts(stub: Stub, config: Path, tmp_path: Path) -> None:
    """Also one that stands before the command."""
    stub.accounts = {"acme": account("acme")}

    found = await completed(tmp_path / "none.toml", "--config", str(config), "token", "")

    assert ["acme"] == found


async def test_without_a_broker_nothing_is_offered(tmp_path: Path) -> None:
    """Neither a sentence nor a traceback comes between a person and the line being typed."""
    config = tmp_path / "config.toml"
    config.write_text('[server]\nadmin_socket = "none.sock"\n')

    missing = await completed(config, "token", "")
    unreadable = await completed(tmp_path / "missing.toml", "token", "")

    assert ([], []) == (missing, unreadable)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    """It calls the command that was typed."""
    kind = get_completion_class(shell)
    assert kind is not None

    script = kind(command_line, {}, "broker", "_BROKER_COMPLETE").source()

    assert f"_BROKER_COMPLETE={shell}_complete" in script


async def test_process_prints_the_script() -> None:
    """As the documentation tells to type it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker"),
        env={"_BROKER_COMPLETE": "zsh_source", **kept("PATH", "PYTHONPATH")},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, _ = await process.communicate()

    assert b"_BROKER_COMPLETE=zsh_complete broker" in out


def kept(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def test_every_name_of_an_account_can_be_completed() -> None:
    """Those of removed accounts too; a new name is nobody's yet."""
    without = [
        " ".join((*path, parameter.name or ""))
        for path, command in leaves(command_line)
        for parameter in command.params
        if parameter.name in ("account", "provider") and not parameter._custom_shell_complete
    ]

    assert [] == without


def leaves(group: click.Group, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += leaves(command, (*above, name))
        else:
            found.append(((*above, name), command))
    return found
