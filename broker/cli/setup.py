"""`broker init` and `broker config`: make the configuration of a server, and look at one."""

import base64
import json
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from broker.cli.command import Command, CommandContext, Group
from broker.cli.output import Failed, show_json
from broker.config import ConfigError, load
from broker.config.settings import CommandKey, DeadError, FileKey, OAuthClient, TcpListen, UnixListen
from broker.files import new_file, read_regular
from broker.model import Secret

CREDSTORE = Path("/etc/credstore")
"""Where systemd looks for credentials (systemd.exec(5))."""
APPS = {"kit": ("client_id", "app_id"), "kustomer": ("client_id",)}
"""The keys that the owner of an app knows, for each provider."""
TITLES = {"kit": "Kit", "kustomer": "Kustomer"}
PLACEHOLDER = "0" * 43 + "="


@dataclass(frozen=True, slots=True)
class Answers:
    """What a configuration is made from."""

    public_url: str
    apps: Mapping[str, Mapping[str, str]]
    """The keys of each provider's app."""
    folder: Path | None = None
    """Where the secrets lie; None: with systemd's credentials."""
    client_secrets: Mapping[str, str] = field(default_factory=dict)
    """Those that were told, by provider."""

    def path_of(self, name: str) -> Path:
        return CREDSTORE / f"token-broker.{name}" if self.folder is None else self.folder / name

    @property
    def secret_names(self) -> tuple[str, ...]:
        return "master-key", *(f"{provider}-client-secret" for provider in self.apps)


def example() -> str:
    """Return the example that a package lays as the configuration until somebody makes one."""
    return resources.files("broker.config").joinpath("example.toml").read_text()


def configuration(answers: Answers) -> str:
    """Return the example with the answers in their places; comments stay."""
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

    def line(found: re.Match[str]) -> str:
        return f"{found[1]}{value}"

    return re.sub(rf'^({key} *= )("[^"]*"|\d+)', line, text, count=1, flags=re.MULTILINE)


def problems_of(answers: Answers) -> tuple[str, ...]:
    """Return the mistakes of a configuration; its secrets count as good ones, because they may come later."""
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


def write_secrets(answers: Answers) -> list[str]:
    """Make the master key and store the secrets that were told, where there are none; a line for each."""
    lines = []
    folder = answers.path_of("master-key").parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = {f"{provider}-client-secret": secret for provider, secret in answers.client_secrets.items()}
    for name in answers.secret_names:
        path = answers.path_of(name)
        if path.exists():
            lines.append(f"Kept {path}.")
        elif name == "master-key":
            _store(path, base64.b64encode(secrets.token_bytes(32)).decode())
            lines.append(
                f"Made the master key {path}. Keep a copy of it apart from this machine: without it nobody"
                " opens the store or its backups."
            )
        elif name in told:
            _store(path, told[name])
            lines.append(f"Wrote {path}.")
        else:
            lines.append(f"Missing: {path}. Paste the secret behind this, then Enter and Ctrl-D:")
            lines.append(f"  (umask 077; cat > {path})")
    return lines


def _store(path: Path, secret: str) -> None:
    with new_file(path) as (_, file):
        file.write(secret.encode() + b"\n")


def entries(answers: Answers) -> Iterator[str]:
    """What to enter at each provider."""
    for provider in answers.apps:
        entry = f"redirect URI {answers.public_url}/callback/{provider}"
        if provider == "kit":
            entry += f" and Authorization URL {answers.public_url}/install/{provider}"
        yield f"Enter at {TITLES[provider]}: {entry}"


@click.command(
    "init", cls=Command, example="sudo broker init --public-url https://broker.example.com --provider kit"
)
@click.option("--public-url", metavar="URL", help="How browsers reach the broker: https, without a path.")
@click.option(
    "--provider",
    "providers",
    type=click.Choice(tuple(APPS)),
    multiple=True,
    help="Which providers; repeatable.",
)
@click.option("--kit-client-id", metavar="ID", help="Of the app at Kit.")
@click.option(
    "--kit-app-id",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="The number in its address at Kit.",
)
@click.option("--kustomer-client-id", metavar="ID", help="Of the app at Kustomer.")
@click.option(
    "--secrets",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep secrets as files in DIR; default systemd's credentials, /etc/credstore.",
)
@click.option("--non-interactive", is_flag=True, help="Ask nothing; what is missing is an error.")
def init(  # noqa: PLR0917 - one parameter for each option
    context: CommandContext,
    public_url: str | None,
    providers: tuple[str, ...],
    kit_client_id: str | None,
    kit_app_id: int | None,
    kustomer_client_id: str | None,
    folder: Path | None,
    *,
    non_interactive: bool,
) -> None:
    """Make the configuration of a server and its master key, and say what comes next.

    Asks for what no option says. Nothing is overwritten but the example that came with the package.
    """
    path = context.config_path
    if path.exists() and read_regular(path).decode(errors="replace") != example():
        raise Failed(
            f"{path} exists, and nothing is overwritten. Edit it, or move it away and type this again."
        )
    may_ask = not non_interactive and sys.stdin.isatty()

    def ask(option: str, value: object, question: str) -> str:
        if value is None and not may_ask:
            raise click.UsageError(f"{question} Nobody is asked here: say it with {option}")
        return str(click.prompt(question, err=True, prompt_suffix=" ") if value is None else value)

    given: dict[str, dict[str, object]] = {
        "kit": {"client_id": kit_client_id, "app_id": kit_app_id},
        "kustomer": {"client_id": kustomer_client_id},
    }
    url = ask("--public-url", public_url, "How do browsers reach the broker (https://…)?").rstrip("/")
    chosen = providers or tuple(name for name, keys in given.items() if any(keys.values()))
    if not chosen:
        chosen = tuple(
            re.findall(r"\w+", ask("--provider", None, "Which providers (kit, kustomer)?").lower())
        )
    if unknown := [name for name in chosen if name not in APPS]:
        raise click.UsageError(f"{unknown[0]!r} is no provider that init knows: {', '.join(APPS)}")
    apps = {
        name: {
            key: ask(
                f"--{name}-{key.replace('_', '-')}",
                given[name][key],
                f"{TITLES[name]}: {key.replace('_', ' ')}?",
            )
            for key in APPS[name]
        }
        for name in dict.fromkeys(chosen)
    }
    answers = Answers(url, apps, folder and folder.absolute())
    if problems := problems_of(answers):
        raise Failed("Nothing was written:\n" + "\n".join(f"  {problem}" for problem in problems))
    told = dict[str, str]()
    for name in apps:
        if may_ask and not answers.path_of(f"{name}-client-secret").exists():
            question = f"{TITLES[name]}: client secret? It is not shown; empty: later."
            told[name] = click.prompt(question, default="", hide_input=True, show_default=False, err=True)
    answers = replace(answers, client_secrets={name: secret for name, secret in told.items() if secret})
    context.say("\n".join(_made(path, answers)), {"file": str(path), "entries": [*entries(answers)]})


def _made(path: Path, answers: Answers) -> list[str]:
    """Write everything; the lines that say so, and what to do next."""
    try:
        lines = write_secrets(answers)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.new")
        unfinished.write_text(configuration(answers))
        unfinished.chmod(0o644)
        unfinished.replace(path)
    except OSError as exc:
        raise Failed(f"{exc.filename or path} cannot be written: {exc.strerror}; are you root?") from None
    start = "systemctl enable --now token-broker" if answers.folder is None else "broker serve"
    following = (start, "broker check", f"broker install-link {next(iter(answers.apps))}")
    return [f"Wrote {path}.", *lines, *entries(answers), "Next:", *(f"  {one}" for one in following)]


@click.group("config", cls=Group)
def config() -> None:
    """Look at a configuration."""


@config.command("check", example="broker config check /etc/token-broker/config.toml")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
def check_config(context: CommandContext, file: Path | None) -> None:
    """Say what is wrong with the configuration in FILE, and change nothing.

    Default: the one that the other commands use. Secrets are read, too, where the service reads them.
    """
    path = (file or context.config_path).absolute()
    try:
        with context.as_service() as environ:
            warnings = load(path, environ=environ).warnings
    except ConfigError as exc:
        if context.as_json:
            show_json({"file": str(path), "problems": list(exc.problems), "warnings": []})
            raise click.exceptions.Exit(1) from None
        raise Failed(
            "\n".join((f"{path} is not valid:", *(f"  {problem}" for problem in exc.problems)))
        ) from None
    told = "\n".join((f"{path} is valid.", *(f"  {warning}" for warning in warnings)))
    context.say(told, {"file": str(path), "problems": [], "warnings": list(warnings)})


RENAMED = (
    (r"^(providers\.[^.]+)\.(client|network)\.", r"\1."),
    (r"\bsecrets$", "client_secret"),
    (r"\btitle$", "name"),
    (r"\bkey_pem$", "key"),
    (r"\bca$", "ca_file"),
    (r"\bwebhook\.url$", "webhook_url"),
    (r"\bwebhook\.keys$", "webhook_secret"),
    (r"^master$", "keys.master"),
    (r"^previous_master$", "keys.previous"),
    (r"^store\.(path|postgres)$", "store.url"),
    (r"^audit\.path$", "audit.to.path"),
)
"""Where a setting is called otherwise than its key, as patterns."""
HIDDEN = re.compile(
    r"path|variables|warnings|(providers|callers)\.[^.]+\.name|providers\.[^.]+\.default_is_stated"
)
"""What is in the settings and no key."""
MASKED = "***"


def effective(settings: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key of a configuration with its value as TOML, defaults included and secrets masked."""
    if is_dataclass(settings) and not _is_leaf(settings):
        members: Iterable[tuple[str, object]] = (
            (one.name, getattr(settings, one.name)) for one in fields(settings)
        )
    elif isinstance(settings, Mapping) and settings:
        members = settings.items()
    else:
        if prefix == "store.path":
            settings = f"sqlite:{settings}"
        for pattern, replacement in RENAMED:
            prefix = re.sub(pattern, replacement, prefix)
        if settings is not None:
            yield prefix, _as_toml(settings)
        return
    for name, value in members:
        if not HIDDEN.fullmatch(key := f"{prefix}.{name}" if prefix else name):
            yield from effective(value, key)


def _is_leaf(value: object) -> bool:
    return isinstance(value, Secret | TcpListen | UnixListen | FileKey | CommandKey | DeadError)


def _as_toml(value: object) -> str:
    match value:
        case Secret() | bytes():
            return json.dumps(MASKED)
        case DeadError():
            return f"{{ error = {json.dumps(value.error)}, description = {json.dumps(value.description)} }}"
        case bool():
            return str(value).lower()
        case float():
            return json.dumps(f"{value:.15g}s")
        case int():
            return str(value)
        case FileKey():
            return f"{{ file = {json.dumps(str(value.path))} }}"
        case CommandKey():
            return f"{{ command = {_as_toml(value.argv)} }}"
        case OAuthClient():
            return (
                f"{{ client_id = {json.dumps(value.client_id)}, client_secret = {_as_toml(value.secrets)} }}"
            )
        case Mapping():
            return "{}"
        case tuple() | frozenset():
            listed = value if isinstance(value, tuple) else sorted(value, key=str)
            return f"[{', '.join(map(_as_toml, listed))}]"
        case _ if is_dataclass(value) and not _is_leaf(value):
            return f"{{ {', '.join(f'{name} = {text}' for name, text in effective(value))} }}"
        case _:
            return json.dumps(str(value), ensure_ascii=False)


@config.command("show", example="broker config show")
def show_config(context: CommandContext) -> None:
    """Print the configuration as it takes effect, with every default; secrets are masked."""
    try:
        with context.as_service() as environ:
            shown = dict(effective(load(context.config_path, environ=environ)))
    except ConfigError as exc:
        raise Failed(
            "\n".join((f"{context.config_path} is not valid:", *(f"  {problem}" for problem in exc.problems)))
        ) from None
    context.say("\n".join(f"{key} = {value}" for key, value in shown.items()), shown)
