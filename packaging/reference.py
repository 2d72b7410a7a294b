"""Writes the generated parts of the reference pages in docs/ from the program itself.

A part is what a page has between `<!-- generated: NAME -->` and `<!-- end -->`; the text around it is written by hand.
`reference.py` writes the pages that differ; `reference.py --check` names them and fails.
"""

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from inspect import cleandoc
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from endpoints import api, table
from manual import commands

from broker.cli import broker
from broker.cli.command import Command
from broker.cli.setup import example
from broker.config import settings
from broker.config.loading import RELOADED
from broker.config.named_tables import USUAL

DOCS = Path(__file__).parent.parent / "docs"
PART = re.compile(r"(?<=<!-- generated: )(\S+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
TABLES: Mapping[str, tuple[type, ...]] = {
    "server": (settings.ServerSettings,),
    "store": (settings.StoreSettings,),
    "keys": (settings.Settings,),
    "refresh": (settings.RefreshSettings,),
    "network": (settings.NetworkSettings,),
    "providers": (settings.OAuthClient, settings.ProviderSettings, settings.NetworkSettings),
    "login": (settings.LoginSettings,),
    "plugin": (settings.PluginSettings,),
    "plugin.clients": (settings.PluginClient,),
    "callers": (settings.CallerSettings, settings.OwnJwt, settings.IssuedJwt, settings.PeerUid),
    "audit": (settings.AuditSettings,),
    "alerts": (settings.WebhookSettings, settings.AlertSettings),
    "log": (settings.LogSettings,),
    "sandbox": (settings.SandboxSettings,),
}
"""The tables of config.toml, and the classes whose fields are their keys."""
FORMS = {"path": "a path", "flag": "true or false", "text": "a string", "texts": "a list of strings"}


def toml(value: object) -> str:
    """Return a default as the file would have it."""
    return "none" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def form(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a key may be, and its default."""
    if "default" in metadata:
        default = metadata["default"]
        is_toml = re.match(r'(["\[{].*|true|false)$', default)
        return metadata["form"], f"`{default}`" if is_toml else default
    kind, arguments, limits = metadata["form"]
    if kind == "choice":
        return ", ".join(f'"{choice}"' for choice in arguments[0]), toml(arguments[1])
    default, *checks = arguments
    if checks:
        # A check says what it expects where it is given nothing.
        return checks[0](""), toml(default)
    if kind in FORMS:
        return FORMS[kind], toml(default)
    text = {"integer": "a whole number", "duration": "a duration"}[kind]
    least, most = limits.get("least"), limits.get("most")
    if least:
        text += f" of at least {least if kind == 'integer' else duration(least)}"
    return text + (f" and at most {duration(most)}" if most else ""), toml(default)


def duration(seconds: float) -> str:
    """Return seconds as the file would have them."""
    size, unit = next(one for one in ((86400, "d"), (60, "m"), (1, "s")) if seconds % one[0] == 0)
    return f"{seconds / size:g}{unit}"


def meanings(owner: type) -> dict[str, str]:
    """Return the text below each field of a class, on one line."""
    found = {}
    body = [
        one
        for one in ast.walk(ast.parse(inspect.getsource(owner)))
        if isinstance(one, ast.AnnAssign | ast.Expr)
    ]
    for one, following in pairwise(body):
        if isinstance(one, ast.AnnAssign) and isinstance(following, ast.Expr):
            found[ast.unparse(one.target)] = " ".join(ast.literal_eval(following.value).split())
    return found


def keys(name: str) -> str:
    """Return the keys of one table of the file."""
    rows = [("key", "value", "default", "meaning")]
    for owner in TABLES[name]:
        told = meanings(owner)
        for one in fields(owner):
            if "form" in one.metadata:
                allowed, default = form(one.metadata)
                if name == "providers" and owner is settings.NetworkSettings:
                    default = "that of `[network]`"
                key = (one.metadata["name"] or one.name).rpartition(".")[2]
                rows.append((f"`{key}`", allowed, default, told[one.name]))
    takes = "`broker reload`" if name.partition(".")[0] in RELOADED else "a restart"
    return f"Changes take effect after {takes}.\n\n{table(*rows)}"


def types() -> str:
    """Return the defaults that depend on a provider's type."""
    kinds = {
        kind: (sets[:1], scopes, rotation, life) for kind, (sets, rotation, life, scopes) in USUAL.items()
    }
    return table(
        ("key", *kinds),
        ("`endpoints`", *(toml(one[0][0]) if one[0] else "none" for one in kinds.values())),
        ("`scopes`", *(toml(one[1]) for one in kinds.values())),
        ("`rotation`", *(toml(one[2]) for one in kinds.values())),
        ("`default_expires_in`", *(toml(f"{one[3] / 3600:g}h") for one in kinds.values())),
        ("`open_install`", *("`false`" if kind == "kit" else "none" for kind in kinds)),
    )


def configuration() -> dict[str, str]:
    """Return the parts of docs/configuration.md: the example, the tables, and what a provider's type decides."""
    parts = {name: keys(name) for name in TABLES}
    return {"example": f"```toml\n{example()}```\n", **parts, "types": types()}


def options(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, str]]:
    for param in command.params:
        found = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
        if found and not found[0].startswith(("--config", "--json")):
            yield f"`{found[0]}`", found[1]


def cli() -> dict[str, str]:
    """Return the parts of docs/cli.md: all commands, each a section."""
    ctx = click.Context(broker, info_name="broker")
    sections, rows = [], [("name", "purpose")]
    for name, command, inner in sorted(commands(broker, "broker", ctx), key=lambda found: found[0]):
        words = [piece for param in command.params for piece in param.get_usage_pieces(inner)]
        lines = [f"## {name}", f"```\n{' '.join((name, *words))}\n```"]
        paragraphs = cleandoc(command.help or "").split("\n\n")
        lines += [" ".join(paragraph.split()) for paragraph in paragraphs]
        if found := list(options(command, inner)):
            lines.append(table(("option", "meaning"), *found).rstrip())
        lines.append(f"Example:\n\n```\n{command.example}\n```" if isinstance(command, Command) else "")
        takes_json = any("--json" in param.opts for param in command.params)
        lines.append("" if takes_json else "It takes no `--json`.")
        sections.append("\n\n".join(filter(None, lines)))
        rows.append((f"[`{name}`](#{name.replace(' ', '-')})", command.get_short_help_str(90)))
    return {"commands": "\n\n".join(sections) + "\n", "contents": table(*rows)}


PAGES: Mapping[str, Callable[[], dict[str, str]]] = {"configuration": configuration, "cli": cli, "api": api}
"""The pages with generated parts: the name of the page in docs/, and the function that returns its parts by name."""


def filled(text: str, parts: Mapping[str, str]) -> str:
    """Return a page with its parts as the program says them now; each part must have its place."""
    if odd := parts.keys() ^ {name for name, _ in PART.findall(text)}:
        raise ValueError(f"there is a part or a place alone: {', '.join(sorted(odd))}")
    return PART.sub(lambda found: f"{found[1]}{found[2]}{parts[found[1]]}", text)


def main(arguments: list[str]) -> int:
    """Write the pages that differ, or with `--check` name them and return 1."""
    differing = []
    for name, function in PAGES.items():
        page = DOCS / f"{name}.md"
        text = page.read_text()
        if (new := filled(text, function())) != text:
            differing.append(name)
            if "--check" not in arguments:
                page.write_text(new)
    if "--check" in arguments:
        sys.stderr.writelines(f"docs/{name}.md differs from the program: make docs\n" for name in differing)
        return int(bool(differing))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
