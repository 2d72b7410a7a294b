"""Words on the command line: their form, anything else is wrong usage, and how the Tab key completes them."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from broker.cli.command import CommandContext
from broker.cli.output import Failed
from broker.config.settings import TcpListen
from broker.config.values import DURATION, HOST_AND_PORT, page_problem, parse_duration
from broker.model import is_account_name

T = TypeVar("T")
COMPLETION_TIMEOUT = 1.0
"""Seconds that a person at the Tab key is kept waiting, at most."""
MOST_COMPLETIONS = 100


def _type(name: str, read: Callable[[str], T | None], expected: str) -> Callable[[str], T]:
    """Return a click type from a function that gives None for a wrong word; the help shows `name`."""

    def convert(text: str) -> T:
        value = read(text)
        if value is None:
            raise click.BadParameter(f"{text!r} is not {expected}.")
        return value

    convert.__name__ = name
    return convert


def _matching(name: str, pattern: str, expected: str) -> Callable[[str], str]:
    fits = re.compile(pattern, re.ASCII).fullmatch
    return _type(name, lambda text: text if fits(text) else None, expected)


def _read_address(text: str) -> TcpListen | None:
    found = HOST_AND_PORT.fullmatch(text)
    return TcpListen(found[1].strip("[]"), int(found[2])) if found and int(found[2]) <= 65535 else None


account = _type(
    "account",
    lambda text: text if is_account_name(text) else None,
    "an account's name: lower-case letters, digits and . _ -, at most 128",
)
caller = _matching(
    "caller",
    r"[a-z0-9][a-z0-9._-]{0,63}",
    "a caller's name: lower-case letters, digits and . _ -, at most 64",
)
provider = _matching(
    "provider", r"[a-z0-9][a-z0-9-]{0,31}", "a provider's name: lower-case letters, digits and -, at most 32"
)
grant = _matching("grant", r"[0-9a-f]{16}", "a grant, as `broker plugin grants` lists them")
kustomer_app = _matching(
    "kustomer_app",
    r"[a-z0-9][a-z0-9_.-]{0,127}",
    "an app's name: lower-case letters, digits and _ -, at most 128",
)
version = _matching("version", r"\d{1,6}\.\d{1,6}\.\d{1,6}", "a version, as in 0.0.1")
kid = _matching("kid", r"[0-9a-f]{16}", "a key's id: 16 hexadecimal digits, as `broker keys list` shows them")
duration = _type("duration", lambda text: int(parse_duration(text) or 0) or None, DURATION)
page = _type(
    "page",
    lambda text: None if page_problem(text) else text.rstrip("/"),
    "an address: https, or http on loopback",
)
address = _type("address", _read_address, "host:port, as in 127.0.0.1:8089")


def _found(ctx: click.Context, what: str, member: str, incomplete: str, **query: Any) -> list[dict[str, Any]]:
    """Ask the running broker, quickly, for things whose name begins so; return nothing where none runs."""
    with suppress(Failed):
        broker = ctx.ensure_object(CommandContext).broker
        answer = broker.ask("GET", f"/{what}", query=query, patience=COMPLETION_TIMEOUT)
        # A terminal shows this unasked, so it must not be able to play with it.
        return [
            one for one in answer[what] if one[member].startswith(incomplete) and one[member].isprintable()
        ]
    return []


def complete_accounts(
    ctx: click.Context, _: click.Parameter, incomplete: str, *, removed: int | None = None
) -> list[CompletionItem]:
    """Return the accounts whose names begin like that; `removed`: those that can be restored."""
    after = None
    # A cursor behind which the first name is that begins so; `~` is behind all letters of a name.
    if incomplete and (last := ord(incomplete[-1])) > ord("!"):
        after = f"{incomplete[:-1]}{chr(last - 1)}~"
    query = {"limit": MOST_COMPLETIONS, "cursor": after, "removed": removed}
    found = _found(ctx, "accounts", "account", incomplete, **query)
    return [CompletionItem(one["account"], help=one["status"]) for one in found]


def complete_providers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return providers of the configuration."""
    return [CompletionItem(one["name"]) for one in _found(ctx, "providers", "name", incomplete)]


def complete_callers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return callers that have keys; the configuration's are changed there."""
    found = _found(ctx, "callers", "name", incomplete)
    return [CompletionItem(one["name"]) for one in found if one["kind"] == "keys"]


account_argument = click.argument("account", type=account, shell_complete=complete_accounts)
removed_argument = click.argument(
    "account", type=account, shell_complete=partial(complete_accounts, removed=1)
)
caller_argument = click.argument("name", type=caller, shell_complete=complete_callers)
provider_argument = click.argument("provider", type=provider, shell_complete=complete_providers)
account_option = partial(click.option, "--account", type=account, shell_complete=complete_accounts)
