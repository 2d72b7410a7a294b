"""Names for the shell's Tab key, from the running broker; quick, and silent where none runs."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from broker.cli.command import Command
from broker.cli.desk import Desk
from broker.cli.failed import Failed

PATIENCE = 1.0
"""Seconds that a person at the Tab key is kept waiting, at most."""
MOST = 100

SHELLS = ("bash", "zsh", "fish")
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@click.command(
    "completion", cls=Command, example='eval "$(broker completion bash)"\nbroker completion fish | source'
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes the Tab key complete commands in SHELL.

    Put the example's line into ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish.
    """
    found = get_completion_class(shell)
    if found is None:
        raise Failed(f"There is no completion for {shell}.")
    # Not source(), which starts bash to look at its version.
    script = found(context.find_root().command, {}, "broker", "_BROKER_COMPLETE")
    click.echo(script.source_template % script.source_vars())


def accounts(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Accounts whose names begin like that."""
    return _accounts(context, incomplete, removed=None)


def removed(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Accounts that can be restored."""
    return _accounts(context, incomplete, removed=1)


def _accounts(context: click.Context, incomplete: str, *, removed: int | None) -> list[CompletionItem]:
    query = {"limit": MOST, "cursor": _just_before(incomplete), "removed": removed}
    found = _asked(context, "/accounts", "accounts", query)
    return [
        CompletionItem(one["account"], help=one["status"])
        for one in found
        if _fits(one["account"], incomplete)
    ]


def providers(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Providers of the configuration."""
    found = _asked(context, "/providers", "providers", {})
    return [CompletionItem(one["name"]) for one in found if _fits(one["name"], incomplete)]


def callers(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Callers that have keys; the configuration's are changed there."""
    found = _asked(context, "/callers", "callers", {})
    names = [one["name"] for one in found if one["kind"] == "keys"]
    return [CompletionItem(name) for name in names if _fits(name, incomplete)]


def _asked(
    context: click.Context, target: str, member: str, query: Mapping[str, object | None]
) -> list[dict[str, Any]]:
    desk = context.ensure_object(Desk)
    with suppress(Failed):
        found: list[dict[str, Any]] = desk.broker.ask("GET", target, query=query, patience=PATIENCE)[member]
        return found
    return []


def _fits(name: str, incomplete: str) -> bool:
    # What a terminal shows unasked must not be able to play with it.
    return name.startswith(incomplete) and name.isprintable()


def _just_before(incomplete: str) -> str | None:
    """A cursor behind which the first name is that begins so; `~` is behind all letters of a name."""
    if not incomplete:
        return None
    last = ord(incomplete[-1])
    return f"{incomplete[:-1]}{chr(last - 1)}~" if last > ord("!") else None
