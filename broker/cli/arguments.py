"""Words on the command line: their form, anything else is wrong usage, and how the Tab key completes them."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import click
from click.shell_completion import CompletionItem

from broker.cli.command import CommandContext
from broker.cli.output import Failed
from broker.config.settings import TcpListen
from broker.config.values import DURATION, HOST_AND_PORT, page_problem, parse_duration
from broker.model import is_account_name

COMPLETION_TIMEOUT = 1.0
"""Seconds that a person at the Tab key is kept waiting, at most."""
MOST_COMPLETIONS = 100


def _matching(name: str, pattern: str, expected: str) -> Callable[[str], str]:
    """Return a click type; its name is what the help shows in the place of the word."""
    compiled = re.compile(pattern, re.ASCII)

    def convert(text: str) -> str:
        if not compiled.fullmatch(text):
            raise _wrong(text, expected)
        return text

    convert.__name__ = name
    return convert


def _wrong(text: str, expected: str) -> click.BadParameter:
    return click.BadParameter(f"{text!r} is not {expected}.")


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


def account(text: str) -> str:
    if not is_account_name(text):
        raise _wrong(text, "an account's name: lower-case letters, digits and . _ -, at most 128")
    return text


def page(text: str) -> str:
    """Return an address without a slash at its end."""
    if page_problem(text):
        raise _wrong(text, "an address: https, or http on loopback")
    return text.rstrip("/")


def duration(text: str) -> int:
    """Return whole seconds, written as in the configuration."""
    seconds = parse_duration(text)
    if not seconds:
        raise _wrong(text, DURATION)
    return int(seconds)


def address(text: str) -> TcpListen:
    """Return the address of `host:port`."""
    found = HOST_AND_PORT.fullmatch(text)
    if not found or int(found[2]) > 65535:
        raise _wrong(text, "host:port, as in 127.0.0.1:8089")
    return TcpListen(found[1].strip("[]"), int(found[2]))


def complete_accounts(
    ctx: click.Context, _: click.Parameter, incomplete: str, *, removed: int | None = None
) -> list[CompletionItem]:
    """Return the accounts whose names begin like that; `removed`: those that can be restored."""
    after = None
    # A cursor behind which the first name is that begins so; `~` is behind all letters of a name.
    if incomplete and (last := ord(incomplete[-1])) > ord("!"):
        after = f"{incomplete[:-1]}{chr(last - 1)}~"
    query = {"limit": MOST_COMPLETIONS, "cursor": after, "removed": removed}
    found = _found(ctx, "accounts", "account", incomplete, query)
    return [CompletionItem(one["account"], help=one["status"]) for one in found]


complete_removed = partial(complete_accounts, removed=1)


def complete_providers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return providers of the configuration."""
    return [CompletionItem(one["name"]) for one in _found(ctx, "providers", "name", incomplete)]


def complete_callers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return callers that have keys; the configuration's are changed there."""
    found = _found(ctx, "callers", "name", incomplete)
    return [CompletionItem(one["name"]) for one in found if one["kind"] == "keys"]


account_argument = click.argument("account", type=account, shell_complete=complete_accounts)
caller_argument = click.argument("name", type=caller, shell_complete=complete_callers)
provider_argument = click.argument("provider", type=provider, shell_complete=complete_providers)


def _found(
    ctx: click.Context,
    what: str,
    member: str,
    incomplete: str,
    query: Mapping[str, object | None] | None = None,
) -> list[dict[str, Any]]:
    """Ask the running broker, quickly; return nothing where none runs."""
    with suppress(Failed):
        broker = ctx.ensure_object(CommandContext).broker
        answer = broker.ask("GET", f"/{what}", query=query, patience=COMPLETION_TIMEOUT)
        # A terminal shows this unasked, so it must not be able to play with it.
        return [
            one for one in answer[what] if one[member].startswith(incomplete) and one[member].isprintable()
        ]
    return []
