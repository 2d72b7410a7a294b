"""`broker init` and `broker config`: create, check and show a configuration."""

import base64
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from broker.cli import arguments
from broker.cli.command import Command, CommandContext, Group
from broker.cli.output import Failed, show_json
from broker.config import ConfigError, Settings, load
from broker.config.loading import keys_of
from broker.config.settings import CommandKey, DeadError, FileKey, OAuthClient, PublicKey
from broker.config.values import Tls, UnixListen
from broker.files import new_file, read_regular, replacing
from broker.model import Secret

CREDSTORE = Path("/etc/credstore")
"""The folder of systemd's credentials (systemd.exec(5))."""
APPS = {"kit": ("client_id", "app_id"), "kustomer": ("client_id",)}
"""The keys of each provider's app that init asks for."""
TITLES = {"kit": "Kit", "kustomer": "Kustomer"}
PLACEHOLDER = "0" * 43 + "="


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers from which a configuration is made."""

    public_url: str
    apps: Mapping[str, Mapping[str, str]]
    """The keys of each provider's app."""
    folder: Path | None = None
    """The folder of the secrets; None: systemd's credentials."""

    def path_of(self, name: str) -> Path:
        """Return the file of a secret."""
        return CREDSTORE / f"token-broker.{name}" if self.folder is None else self.folder / name

    @property
    def secret_names(self) -> tuple[str, ...]:
        """The names of the secrets: the master key, and a client secret for each provider."""
        return "master-key", *(f"{provider}-client-secret" for provider in self.apps)


def example() -> str:
    """Return the example that the package installs as the configuration."""
    return resources.files("broker.config").joinpath("example.toml").read_text()


def configuration(answers: Answers) -> str:
    """Return the example with the answers filled in; its comments stay."""
    _, *blocks = example().split("\n\n")
    for number, block in enumerate(blocks):
        found = re.search(r"^# \[providers\.(\w+)\]$", block, re.MULTILINE)
        if found and found[1] in answers.apps:
            table = re.sub("^# ", "", block[found.start() :], flags=re.MULTILINE)
            for key, value in answers.apps[found[1]].items():
                table = _with(table, key, value if key == "app_id" else json.dumps(value))
            blocks[number] = block[: found.start()] + table
    text = _with("\n\n".join(blocks), "public_url", json.dumps(answers.public_url))
    if answers.folder is None:
        return text
    return re.sub(
        r'\{ credential = "([^"]*)" \}',
        lambda found: f"{{ file = {json.dumps(str(answers.path_of(found[1])))} }}",
        text,
    )


def _with(text: str, key: str, value: str) -> str:
    """Replace the value of a key, which is a string without escapes or a number."""
    pattern = re.compile(rf'^({key} *= )("[^"]*"|\d+)', re.MULTILINE)
    return pattern.sub(lambda found: f"{found[1]}{value}", text, count=1)


def problems_of(answers: Answers) -> tuple[str, ...]:
    """Return the mistakes in a configuration, with valid secrets in the place of those that are still missing."""
    with TemporaryDirectory(prefix="token-broker-") as folder:
        for name in answers.secret_names:
            path = Path(folder, name)
            path.touch(mode=0o600)
            path.write_text(PLACEHOLDER)
        config = Path(folder, "config.toml")
        config.write_text(
            configuration(answers if answers.folder is None else replace(answers, folder=Path(folder)))
        )
        try:
            load(config, environ={"CREDENTIALS_DIRECTORY": folder})
        except ConfigError as exc:
            return exc.problems
    return ()


def write_secrets(answers: Answers, client_secrets: Mapping[str, str]) -> Iterator[str]:
    """Create the master key and store the client secrets, unless they exist; yield a line for each."""
    folder = answers.path_of("master-key").parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    master_key = base64.b64encode(secrets.token_bytes(32)).decode()
    values = {
        "master-key": master_key,
        **{f"{name}-client-secret": one for name, one in client_secrets.items()},
    }
    for name in answers.secret_names:
        path = answers.path_of(name)
        if path.is_symlink() and not path.exists():
            raise Failed(f"{path} is a link to a file that does not exist. Remove it and repeat the command.")
        if path.exists():
            yield f"Kept {path}."
        elif name not in values:
            yield f"Missing: {path}. Paste the secret after this command, then press Enter and Ctrl-D:"
            yield f"  (umask 077; cat > {path})"
        else:
            with new_file(path) as (_, file):
                file.write(values[name].encode() + b"\n")
            yield (
                f"Wrote {path}."
                if name != "master-key"
                else (
                    f"Made the master key {path}. Keep a copy of it apart from this machine: without it nobody"
                    " can read the store or its backups."
                )
            )


def entries(answers: Answers) -> Iterator[str]:
    """Yield a line for each provider: what to enter at the provider."""
    for provider in answers.apps:
        entry = f"redirect URI {answers.public_url}/callback/{provider}"
        if provider == "kit":
            entry += f" and Authorization URL {answers.public_url}/install/{provider}"
        yield f"Enter at {TITLES[provider]}: {entry}"


@click.command(
    "init", cls=Command, example="sudo broker init --public-url https://broker.example.com --provider kit"
)
@click.option(
    "--public-url", metavar="URL", help="The address by which browsers reach the broker: https, no path."
)
@click.option(
    "--provider",
    "providers",
    type=click.Choice(tuple(APPS)),
    multiple=True,
    help="A provider to connect; repeatable.",
)
@click.option("--kit-client-id", metavar="ID", help="The client id of the app at Kit.")
@click.option(
    "--kit-app-id", type=click.IntRange(1), metavar="NUMBER", help="The number in the app's address at Kit."
)
@click.option("--kustomer-client-id", metavar="ID", help="The client id of the app at Kustomer.")
@click.option(
    "--secrets",
    "folder",
    type=arguments.folder,
    metavar="DIR",
    help="Keep secrets as files in DIR. Default: systemd's credentials, /etc/credstore.",
)
@click.option("--non-interactive", is_flag=True, help="Ask nothing; a missing answer is an error.")
def init(
    context: CommandContext,
    *,
    public_url: str | None,
    providers: tuple[str, ...],
    folder: Path | None,
    non_interactive: bool,
    **given: str | int | None,
) -> None:
    """Create the configuration of a server and its master key, and print the next steps.

    It asks for each answer that no option gives. Nothing is overwritten, except the example that the package installed.
    """
    path = context.config_path
    if path.is_symlink() or (path.exists() and read_regular(path).decode(errors="replace") != example()):
        raise Failed(
            f"{path} exists, and nothing is overwritten. Edit it, or move it away and repeat the command."
        )
    may_ask = not non_interactive and sys.stdin.isatty()

    def ask(option: str, value: object, question: str) -> str:
        if value is None and not may_ask:
            raise click.UsageError(f"{question} There is no terminal to ask on: answer with {option}")
        answer = str(click.prompt(question, err=True, prompt_suffix=" ") if value is None else value)
        if answer.encode(errors="replace").decode() != answer:
            raise click.UsageError(f"The answer to {option} is not UTF-8.")
        return answer

    url = ask("--public-url", public_url, "Which address do browsers use (https://…)?").rstrip("/")
    chosen = providers or [name for name in APPS if any(given[f"{name}_{key}"] for key in APPS[name])]
    if not chosen:
        chosen = re.findall(r"\w+", ask("--provider", None, "Which providers (kit, kustomer)?").lower())
    apps = dict[str, dict[str, str]]()
    for name in chosen:
        if name not in APPS:
            raise click.UsageError(f"{name!r} is not a provider that init knows: {', '.join(APPS)}")
        apps[name] = {}
        for key in APPS[name]:
            option, question = (
                f"--{name}-{key.replace('_', '-')}",
                f"{TITLES[name]}: {key.replace('_', ' ')}?",
            )
            apps[name][key] = ask(option, given[f"{name}_{key}"], question)
    answers = Answers(url, apps, folder and folder.absolute())
    if problems := problems_of(answers):
        raise Failed("Nothing was written:\n" + "\n".join(f"  {problem}" for problem in problems))
    told = dict[str, str]()
    for name in apps:
        if may_ask and not answers.path_of(f"{name}-client-secret").exists():
            question = f"{TITLES[name]}: client secret? It is not shown. Leave it empty to add it later."
            if secret := click.prompt(question, default="", hide_input=True, show_default=False, err=True):
                told[name] = secret
    try:
        lines = list(write_secrets(answers, told))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(configuration(answers).encode())
    except OSError as exc:
        raise Failed(f"{exc.filename or path} cannot be written: {exc.strerror}; are you root?") from None
    start = "systemctl enable --now token-broker" if folder is None else "broker serve"
    steps = ("Next:", f"  {start}", "  broker check", f"  broker install-link {next(iter(apps))}")
    told_lines = "\n".join((f"Wrote {path}.", *lines, *entries(answers), *steps))
    context.say(told_lines, {"file": str(path), "entries": [*entries(answers)]})


@click.group("config", cls=Group)
def config() -> None:
    """Check or show a configuration."""


@config.command("check", example="broker config check /etc/token-broker/config.toml")
@click.argument("file", type=arguments.file, required=False)
def check_config(context: CommandContext, file: Path | None) -> None:
    """List all mistakes in the configuration FILE, and change nothing.

    Default: the file that the other commands use. Secrets are read as well, from where the service reads them.
    """
    path = (file or context.config_path).absolute()
    try:
        with context.as_service() as environ:
            warnings = load(path, environ=environ).warnings
    except ConfigError as exc:
        if context.as_json:
            show_json({"file": str(path), "problems": list(exc.problems), "warnings": []})
            raise click.exceptions.Exit(1) from None
        raise _invalid(path, exc) from None
    told = "\n".join((f"{path} is valid.", *(f"  {warning}" for warning in warnings)))
    context.say(told, {"file": str(path), "problems": [], "warnings": list(warnings)})


def _invalid(path: Path, error: ConfigError) -> Failed:
    return Failed("\n".join((f"{path} is not valid:", *(f"  {problem}" for problem in error.problems))))


def effective(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield each key of a configuration with its value as TOML; defaults are included, secrets are masked."""
    for key, value in keys_of(settings):
        if key == "store.url" and isinstance(value, Path):
            yield key, json.dumps(f"sqlite:{value}")
        elif value is not None:
            yield "audit.to.path" if key == "audit.to" else key, _as_toml(value)


def _as_toml(value: Any) -> str:
    match value:
        case Secret() | bytes():
            value = "***"
        case float():
            value = f"{value:.15g}s"
        case PublicKey():
            value = value.pem
        case FileKey():
            value = {"file": value.path}
        case CommandKey():
            value = {"command": value.argv}
        case UnixListen():
            group = {} if value.group is None else {"group": value.group}
            value = {"path": value.path, "mode": f"{value.mode:04o}", **group}
        case Tls() | DeadError():
            value = {one.name: getattr(value, one.name) for one in fields(value)}
        case OAuthClient():
            value = dict(keys_of(value))
        case frozenset():
            value = tuple(sorted(value))
        case _:
            pass
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_as_toml(one)}' for key, one in value.items())} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_toml, value))}]"
    return json.dumps(value if isinstance(value, int) else str(value), ensure_ascii=False)


@config.command("show", example="broker config show")
def show_config(context: CommandContext) -> None:
    """Print the configuration that takes effect, with all defaults and with secrets masked."""
    try:
        with context.as_service() as environ:
            shown = dict(effective(load(context.config_path, environ=environ)))
    except ConfigError as exc:
        raise _invalid(context.config_path, exc) from None
    context.say("\n".join(f"{key} = {value}" for key, value in shown.items()), shown)
