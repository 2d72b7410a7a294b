"""Prints broker(1), the manual page of the command line, from the commands themselves (man-pages(7), groff_man(7))."""

import sys
from collections.abc import Iterator
from inspect import cleandoc

import click

from broker.cli import broker
from broker.cli.command import Command

FILES = {
    "/etc/token-broker/config.toml": "the configuration; readable for all, and so without a secret",
    "/etc/credstore/token-broker.NAME": 'the secret { credential = "NAME" }; root alone reads it',
    "/var/lib/token-broker/": "the store",
    "/run/token-broker/admin.sock": "the socket that the commands talk to; whoever may open it is an operator",
}
ENVIRONMENT = {"BROKER_CONFIG": "the configuration, where --config is not given"}
EXIT = {"0": "done", "1": "failed; the reason is on standard error", "2": "used wrongly"}


def text(words: str) -> str:
    """Escape what groff reads as its own: a backslash, a hyphen that is a minus, a dot or quote that begins a line."""
    escaped = words.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in escaped.splitlines())


def commands(
    group: click.Group, path: str, ctx: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command that does something, depth first, with its whole name."""
    for name in group.list_commands(ctx):
        command = group.commands[name]
        below = click.Context(command, info_name=f"{path} {name}", max_content_width=10_000)
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}", below)
        elif not command.hidden:
            yield f"{path} {name}", command, below


def terms(rows: dict[str, str]) -> Iterator[str]:
    for term, meaning in rows.items():
        yield f".TP\n.B {text(term)}\n{text(meaning)}"


def of_command(name: str, command: click.Command, ctx: click.Context) -> Iterator[str]:
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    words = (word for argument in arguments for word in argument.get_usage_pieces(ctx))
    yield f'.SS "{text(" ".join((name, *words)))}"'
    yield from (f"{text(part)}\n.PP" for part in cleandoc(command.help or "").replace("`", "").split("\n\n"))
    options = [param.get_help_record(ctx) for param in command.params if param not in arguments]
    yield from terms(dict(one for one in options if one and not one[0].startswith("--config")))
    if isinstance(command, Command):
        yield f".PP\nExample:\n.PP\n.nf\n.RS\n{text(command.example)}\n.RE\n.fi"


def manual(version: str) -> Iterator[str]:
    ctx = click.Context(broker, info_name="broker")
    about, codes = cleandoc(broker.help or "").split("\n\n", 1)
    yield f'.TH BROKER 1 "" "token\\-broker {text(version)}" "User Commands"'
    yield f".SH NAME\nbroker \\- {text(about[0].lower() + about[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS\n.B broker\n[\\-\\-config PATH] COMMAND [ARGUMENTS] [OPTIONS]"
    yield f".SH DESCRIPTION\n{text(codes)}\nThe commands talk to the broker that runs on this machine, as its operator."
    yield ".SH COMMANDS"
    for found in commands(broker, "broker", ctx):
        yield from of_command(*found)
    for title, rows in (("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT), ("EXIT STATUS", EXIT)):
        yield f'.SH "{title}"'
        yield from terms(rows)


if __name__ == "__main__":
    sys.stdout.write("\n".join(manual(sys.argv[1])) + "\n")
