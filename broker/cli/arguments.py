"""Types of command-line arguments, and their completion with the Tab key."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from broker.cli.command import CommandContext
from broker.cli.output import Failed
from broker.config import ConfigError
from broker.config.values import DURATION, HOST_AND_PORT, TcpListen, page_problem, parse_duration
from broker.model import is_account_name

T = TypeVar("T")
COMPLETION_TIMEOUT = 1.0
"""Seconds that the Tab key waits for the broker."""
MOST_COMPLETIONS = 100


def _type(name: str, expected: str, read: Callable[[str], T | None]) -> Callable[[str], T]:
    """Return a click type from a function that returns None for a wrong value; the help shows `name`."""

    def convert(text: str) -> T:
        value = read(text)
        if value is None:
            raise click.BadParameter(f"{text!r} is not {expected}.")
        return value

    convert.__name__ = name
    return convert


def _matching(name: str, expected: str, pattern: str) -> Callable[[str], str]:
    fits = re.compile(pattern, re.ASCII).fullmatch
    return _type(name, expected, lambda text: text if fits(text) else None)


def _read_address(text: str) -> TcpListen | None:
    found = HOST_AND_PORT.fullmatch(text)
    return TcpListen(found[1].strip("[]"), int(found[2])) if found and int(found[2]) <= 65535 else None


LETTERS = "lower-case letters, digits and"
account = _type(
    "account",
    f"an account's name: {LETTERS} . _ -, at most 128",
    lambda text: text if is_account_name(text) else None,
)
caller = _matching("caller", f"a caller's name: {LETTERS} . _ -, at most 64", r"[a-z0-9][a-z0-9._-]{0,63}")
provider = _matching("provider", f"a provider's name: {LETTERS} -, at most 32", r"[a-z0-9][a-z0-9-]{0,31}")
grant = _matching("grant", "a grant, as `broker plugin grants` lists them", r"[0-9a-f]{16}")
kustomer_app = _matching(
    "kustomer_app", f"an app's name: {LETTERS} _ -, at most 128", r"[a-z0-9][a-z0-9_.-]{0,127}"
)
version = _matching("version", "a version, as in 0.0.1", r"\d{1,6}\.\d{1,6}\.\d{1,6}")
kid = _matching("kid", "a key's id: 16 hexadecimal digits, as `broker keys list` shows them", r"[0-9a-f]{16}")
duration = _type("duration", DURATION, lambda text: int(parse_duration(text) or 0) or None)
page = _type(
    "page",
    "an address: https, or http on loopback",
    lambda text: None if page_problem(text) else text.rstrip("/"),
)
path = click.Path(path_type=Path)
file = click.Path(path_type=Path, dir_okay=False)
folder = click.Path(path_type=Path, file_okay=False)
file_or_stdin = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
defaulted = partial(click.option, show_default=True)
"""An option whose default is shown in the help."""
address = _type("address", "host:port, as in 127.0.0.1:8089", _read_address)


def _found(ctx: click.Context, what: str, member: str, incomplete: str, **query: Any) -> list[dict[str, Any]]:
    """Return the objects of the running broker whose `member` begins like that; none if it does not answer."""
    with suppress(Failed, ConfigError):
        broker = ctx.ensure_object(CommandContext).broker
        answer = broker.ask("GET", f"/{what}", query=query, patience=COMPLETION_TIMEOUT)
        # The terminal shows these names without being asked, so they must be harmless.
        return [
            one for one in answer[what] if one[member].startswith(incomplete) and one[member].isprintable()
        ]
    return []


def complete_accounts(
    ctx: click.Context, _: click.Parameter, incomplete: str, *, removed: int | None = None
) -> list[CompletionItem]:
    """Complete the name of an account; with `removed` of one that can be restored."""
    after = None
    # A cursor just before the first name that begins like this; `~` sorts after all letters of a name.
    if incomplete and (last := ord(incomplete[-1])) > ord("!"):
        after = f"{incomplete[:-1]}{chr(last - 1)}~"
    query = {"limit": MOST_COMPLETIONS, "cursor": after, "removed": removed}
    found = _found(ctx, "accounts", "account", incomplete, **query)
    return [CompletionItem(one["account"], help=one["status"]) for one in found]


def complete_providers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a provider."""
    return [CompletionItem(one["name"]) for one in _found(ctx, "providers", "name", incomplete)]


def complete_callers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a caller that has keys; those of the configuration are changed there."""
    found = _found(ctx, "callers", "name", incomplete)
    return [CompletionItem(one["name"]) for one in found if one["kind"] == "keys"]


account_argument = click.argument("account", type=account, shell_complete=complete_accounts)
removed_argument = click.argument(
    "account", type=account, shell_complete=partial(complete_accounts, removed=1)
)
caller_argument = click.argument("name", type=caller, shell_complete=complete_callers)
provider_argument = click.argument("provider", type=provider, shell_complete=complete_providers)
account_option = partial(click.option, "--account", type=account, shell_complete=complete_accounts)
