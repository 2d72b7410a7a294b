"""The README says what the program does: keys, routes, codes, metrics, commands, reasons, switches, targets."""

import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from prometheus_client.metrics import MetricWrapperBase

from broker import errors
from broker.alerts.dispatch import KEPT, RETRIES
from broker.app.listeners import OPERATORS, OTHER_FILES, SERVICES, STRANGERS
from broker.cli import broker
from broker.config import ConfigError, Settings, load
from broker.config.settings import IssuedJwt, OwnJwt, PeerUid
from broker.model import EventKind, Reason, Secret
from broker.observe.metrics import Metrics, TokenRequests
from broker.sandbox.faults import PASSING, STANDING, Faults, Mode
from broker.systemd.unit import alert_rules
from broker.tokens.flight import QUEUE
from tests.certificates import Authority
from tests.house import House

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TYPES = ("kit", "kustomer", "oauth2")
MINIMAL = """
[providers.it]
type = "{type}"
client_id = "c"
client_secret = "s"
authorize_url = "https://id.example.com/a"
token_url = "https://id.example.com/t"
"""
SERVICES_ONLY = {("GET", path) for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs")}
FILES = r"`((?:broker|tests|\.ci)/[\w/.]+|Makefile|config\.toml)`|\]\((?!https?:|#)([^)#]+)"


def chapter(heading: str) -> str:
    """What stands below a heading, up to the next of its rank or a higher one; a single # begins a comment."""
    rank = heading.partition(" ")[0]
    [_, rest] = f"\n{README}".split(f"\n{heading}\n")
    return re.split(rf"^#{{2,{len(rank)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of its tables, without the heads and rules."""
    found = [line for line in text.splitlines() if line.startswith("|")]
    heads = {number - 1 for number, line in enumerate(found) if line.startswith("|---")}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for number, line in enumerate(found)
        if number not in heads and not line.startswith("|---")
    ]


def first_words(text: str) -> set[str]:
    return {row[0].strip("`") for row in rows(text)}


def block(language: str, text: str = README) -> str:
    """The first fenced block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def uncommented(text: str) -> str:
    return re.sub(r"^# (\w+ *= )", r"\1", text, flags=re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a configuration may lie, with the public key and the authority that the README's one names."""
    (tmp_path / "ca.pem").write_text(Authority().pem)
    public = Ed25519PrivateKey.generate().public_key()
    (tmp_path / "login.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return tmp_path


def loaded(folder: Path, text: str) -> Settings:
    (folder / "config.toml").write_text(text)
    return load(folder / "config.toml", environ={})


def test_reference_block_is_a_valid_configuration(folder: Path) -> None:
    """Every key of the README is known to the program; those that are off too."""
    settings = loaded(folder, uncommented(block("toml")))

    assert {"kit", "kustomer", "anything"} == set(settings.providers)


def test_every_key_the_program_reads_is_in_the_block(folder: Path) -> None:
    """No key is read that nobody can find, by the program's own list of what it knows."""
    read = known_keys(folder)

    shown = shown_keys(tomllib.loads(uncommented(block("toml"))) | {"callers": callers_block()["callers"]})

    assert shown == read


def known_keys(folder: Path) -> dict[str, set[str]]:
    """The keys of each table that is read, as the complaint about an unknown one lists them."""
    tables = (
        *("server", "store", "keys", "refresh", "login", "plugin", "plugin.clients.kit", "audit", "log"),
        *("sandbox", "alerts", "network"),
    )
    text = "nonsense = 1\n" + "".join(f"[{table}]\nnonsense = 1\n" for table in tables)
    text += "[callers.x]\nnonsense = 1\n"
    for kind in TYPES:
        text += f"""
[providers.{kind}]
type = "{kind}"
rotation = "grace"
nonsense = 1
previous_clients = [{{ nonsense = 1 }}]
"""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    known: dict[str, set[str]] = {}
    for line in caught.value.problems:
        if found := re.fullmatch(r"(.*?)\.?nonsense: unknown key; one of: (.*)", line):
            name = re.sub(r"^(providers|plugin\.clients|callers)\.\w+", r"\1", found[1])
            known[name] = known.get(name, set()) | set(found[2].split(", "))
    return known


def shown_keys(data: dict[str, dict[str, object]]) -> dict[str, set[str]]:
    """The keys of each table in the block; all providers share one, and so do all callers."""
    providers: list[dict[str, object]] = [one for one in data["providers"].values() if isinstance(one, dict)]
    callers: list[dict[str, object]] = [one for one in data["callers"].values() if isinstance(one, dict)]
    shown = {name: set(table) for name, table in data.items() if name not in ("providers", "callers")}
    clients = [one["previous_clients"] for one in providers if "previous_clients" in one]
    plugins = tomllib.loads(uncommented(block("toml")))["plugin"]["clients"]
    inner = [client for each in clients if isinstance(each, list) for client in each]
    return {
        "": set(data),
        **shown,
        "providers": set().union(*providers),
        "callers": set().union(*callers),
        "providers.previous_clients[0]": set().union(*inner),
        "plugin.clients": {key for client in plugins.values() for key in client},
    }


def callers_block() -> dict[str, dict[str, object]]:
    return tomllib.loads(callers_text())


def callers_text() -> str:
    return block("toml", chapter("## Callers"))


def test_callers_block_is_a_valid_configuration(folder: Path) -> None:
    """Each way of being a caller that stands in the file is shown by one that is taken."""
    (folder / "login.pem").rename(folder / "reporting.pem")

    settings = loaded(folder, callers_text())

    assert [OwnJwt, IssuedJwt, PeerUid] == [type(one.proof) for one in settings.callers.values()]


def test_block_shows_the_defaults(folder: Path) -> None:
    """But for providers, the login and plugins it is what an empty file gives."""
    shown = loaded(folder, block("toml"))

    assert loaded(folder, "") == replace(shown, providers={}, login=None, plugin=None)


@pytest.mark.parametrize("name", ["kit", "kustomer"])
def test_block_shows_the_defaults_of_a_provider(folder: Path, name: str) -> None:
    """But for ids and secrets it is what the least that one must give leads to."""
    shown = loaded(folder, block("toml")).providers[name]

    least = loaded(folder, f'[providers.{name}]\nclient_id = "…"\nclient_secret = "..."').providers[name]

    assert least == replace(shown, app_id=None)


@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [
        (row[0].strip("`"), kind, cell)
        for row in rows(chapter("## Configuration"))
        for kind, cell in zip(TYPES, row[1:], strict=True)
    ],
)
def test_default_of_a_type_is_the_programs(folder: Path, key: str, kind: str, value: str) -> None:
    """Giving the value that the README calls the default changes nothing; `none` means no such key."""
    least = MINIMAL.format(type=kind)

    given = least + f"{key} = {'true' if value == 'none' else value.strip('`')}"

    if value == "none":
        with pytest.raises(ConfigError, match="unknown key"):
            loaded(folder, given)
    else:
        assert loaded(folder, least).providers == loaded(folder, given).providers


def test_connecting_kit_is_a_valid_configuration(folder: Path) -> None:
    """The few lines that one copies first are taken, with the secret where it may be had here."""
    [lines] = re.findall(
        r"^ +```\n( +\[server\].*?)```", chapter("## Connecting Kit"), re.DOTALL | re.MULTILINE
    )
    text = re.sub(r"^ +", "", lines, flags=re.MULTILINE)

    settings = loaded(folder, text.replace('{ credential = "kit-client-secret" }', '"s"'))

    assert settings.server.public_url in chapter("## Connecting Kit").partition("```")[0]


@pytest.mark.parametrize("name", ["Internal listener", "Public listener", "Admin socket"])
async def test_routes_are_the_listeners(house: House, name: str) -> None:
    """Each is named with its method, and none is named that is not there."""
    listeners = house.broker.listeners
    dashboard = {
        one for one in routes(listeners.internal) if one[1] == "/" or one[1].startswith("/dashboard/")
    }
    shared = without_static(routes(listeners.internal)) - SERVICES_ONLY - dashboard
    known = {
        "Internal listener": without_static(routes(listeners.internal)),
        "Public listener": without_static(routes(listeners.public)),
        "Admin socket": routes(listeners.admin) - shared,
    }

    named = {tuple(word.split(" ", 1)) for word in first_words(chapter(f"### {name}"))}

    assert known[name] == named
    assert shared <= routes(listeners.admin)


def without_static(known: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {one for one in known if not one[1].startswith("/static/")}


def routes(application: web.Application) -> set[tuple[str, str]]:
    return {
        (route.method, route.resource.canonical)
        for route in application.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


async def test_token_answer_is_as_shown(house: House) -> None:
    """The first answer that a newcomer reads has the members that the program gives, in their order."""
    await house.connect("kit", "demo-kit")

    answer = await house.get("/token/demo-kit")

    assert list(json.loads(block("json"))) == list(answer.json)


def test_every_error_code_is_explained() -> None:
    """With its status and sentence, and none that is not there."""
    kinds: list[type[errors.BrokerError]] = [errors.BrokerError, *errors.BrokerError.__subclasses__()]

    # Tests may have subclasses of their own.
    ours = [kind for kind in kinds if kind.__module__ == errors.__name__]
    known = [[f"`{kind.code}`", str(kind.status), kind.title] for kind in ours]

    assert sorted(known) == sorted(rows(chapter("### Errors")))


def test_every_reason_is_explained() -> None:
    """In the very words of the program, and none that is not there."""
    known = [[f"`{reason}`", reason.happened, reason.what_to_do] for reason in Reason]

    assert known == rows(chapter("### Status and reasons"))


def test_every_event_is_explained() -> None:
    """Each kind that people can hear of, and no other."""
    assert {str(kind) for kind in EventKind} == first_words(chapter("### Events"))


def test_every_metric_is_explained() -> None:
    """With its labels and help, and none that is not there."""
    collectors = [
        one for one in vars(Metrics()).values() if isinstance(one, MetricWrapperBase | TokenRequests)
    ]
    known = [row for one in collectors for row in metric_rows(one)]

    assert known == rows(chapter("### Metrics"))


def metric_rows(collector: MetricWrapperBase | TokenRequests) -> list[list[str]]:
    """One for each metric: a collector is one, or collects some."""
    return [
        [
            f"`{metric.name}_total`" if metric.type == "counter" else f"`{metric.name}`",
            ", ".join(getattr(collector, "_labelnames", getattr(metric, "_labelnames", ()))),
            metric.documentation,
        ]
        for metric in collector.describe()
    ]


def test_every_alert_rule_is_named_with_what_to_do() -> None:
    """In the very sentence of its annotation, with its severity, and none that is not there."""
    _, *blocks = re.split(r"^ +- alert: ", alert_rules(), flags=re.MULTILINE)
    member = r'^ +{}: "?(.+?)"?$'
    known = [
        [f"`{block.splitlines()[0]}`", *(re.findall(pattern, block, re.MULTILINE)[0] for pattern in patterns)]
        for block in blocks
        for patterns in [(r"severity: (\w+)", member.format("todo"))]
    ]

    assert known == rows(chapter("### Alerts"))


@pytest.mark.parametrize("wait", RETRIES)
def test_schedule_of_retries_is_as_shown(wait: float) -> None:
    """Each pause between two attempts, and when an alert is given up."""
    text = f"{wait:.0f} s" if wait < 60 else f"{wait / 60:.0f} min" if wait < 3600 else f"{wait / 3600:.0f} h"

    assert f"{text}, " in chapter("### Alerts")
    assert 3 * 86400 == KEPT


def test_every_command_is_named_with_its_help() -> None:
    """And none that is not there."""
    known = {(f"`{name}`", command.get_short_help_str(90)) for name, command in commands(broker)}

    assert known == {tuple(row) for row in rows(chapter("## Command line"))}


def commands(group: click.Group, name: str = "broker") -> Iterator[tuple[str, click.Command]]:
    for part, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {part}")
        else:
            yield f"{name} {part}", command


def told() -> list[str]:
    """The commands of ours in the text and in its examples."""
    fences = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    lines = [*spans, *(line for fence in fences for line in fence.splitlines())]
    found = [
        re.fullmatch(r"(?:sudo |\.venv/bin/)?broker (?:--config \S+ )?([a-z].*)", line) for line in lines
    ]
    return sorted({one[1] for one in found if one})


@pytest.mark.parametrize("line", told())
def test_commands_that_the_text_tells_to_type_are_taken(line: str) -> None:
    """Each is a command, with options that it has."""
    words = line.split()
    command: click.Command = broker
    while words and isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}

    assert {word for word in words if word.startswith("--")} <= known


def test_every_make_target_is_named() -> None:
    """With the help that `make` prints, and none that is not there."""
    targets = re.findall(r"^([a-z-]+):.*## (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert [[f"`make {name}`", text] for name, text in targets] == rows(chapter("## Development"))


def test_every_switch_of_the_sandbox_is_named() -> None:
    """Every mode of rotation too."""
    text = chapter("## The sandbox")

    assert [] == [switch for switch in (*STANDING, *PASSING) if f"`{switch}`" not in text]
    assert {str(mode) for mode in Mode} == {word for word in first_words(text) if " " not in word}


@pytest.mark.parametrize("body", re.findall(r"/_sandbox/faults -d '(.*)'", README))
def test_switches_that_the_text_tells_to_send_are_taken(body: str) -> None:
    """Each curl line for the sandbox changes what it says."""
    faults, asked = Faults(), json.loads(body)
    before = faults.as_json()

    faults.apply(asked.pop("provider"), asked)

    assert before != faults.as_json()


async def test_routes_of_the_sandbox_are_its_own(house: House) -> None:
    """Each that the README names answers."""
    named = {word for word in first_words(chapter("## The sandbox")) if " /" in word}

    answers = {word: await status_of(house, *word.split(" ")) for word in named}

    assert {"POST /_sandbox/faults", "GET /_sandbox/record"} <= named
    assert {} == {word: status for word, status in answers.items() if status in (404, 405)}


async def status_of(house: House, method: str, path: str) -> int:
    async with house.session.request(method, house.sandbox.base_url + path, json={}) as response:
        return response.status


async def test_login_response_is_believed(house: House, folder: Path) -> None:
    """The JWT of the README's few lines signs a person in."""
    private = Ed25519PrivateKey.generate()
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (house.folder / "login.pem").write_bytes(pem)
    house.extra += '\n[login]\nurl = "https://app.example.com/kit/login"\nkey = { file = "login.pem" }'
    house.write_config()
    await house.restart()
    login = house.broker.installs.login
    assert login is not None
    begun = login.begin("install", "{}")
    assert begun is not None
    challenge = begun[0].partition("login_challenge=")[2]

    response = signed(house, challenge, private)
    person = await login.complete(Secret(challenge), response, {begun[1].name: begun[1].value})

    assert "user-42" == person.subject


def signed(house: House, challenge: str, private: Ed25519PrivateKey) -> str:
    """What the README's function gives for this broker's address."""
    names: dict[str, Any] = {"jwt": jwt}
    exec(
        block("python", chapter("## Who is at the browser")).replace(
            "https://broker.example.com", house.public
        ),
        names,
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return str(names["login_response"](challenge, "user-42", int(house.clock.now()), pem))


async def test_callers_jwt_opens_the_door(house: House) -> None:
    """The JWT of the README's few lines is that of the caller `reporting`."""
    private = Ed25519PrivateKey.generate()
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (house.folder / "reporting.pem").write_bytes(pem)
    house.extra += '\n[callers.reporting]\naccounts = ["*"]\npublic_key = { file = "reporting.pem" }'
    house.write_config()
    await house.restart()
    await house.connect()
    names: dict[str, Any] = {"jwt": jwt}
    exec(block("python", chapter("## Callers")), names)
    own = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    answer = await house.get("/token/acme", key=names["caller_jwt"]("reporting", int(house.clock.now()), own))

    assert 200 == answer.status


def named_files() -> Iterator[tuple[str, str]]:
    """Each page, and what it names: a path from the root of the project in backquotes, or a link from the page."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for path, link in re.findall(FILES, page.read_text()):
            named = ROOT / path if path else page.parent / link.partition("#")[0]
            yield page.name, os.path.relpath(named, ROOT)


@pytest.mark.parametrize(("page", "name"), sorted(set(named_files())))
def test_every_file_that_is_named_exists(page: str, name: str) -> None:
    """Every path on a page leads somewhere."""
    assert (ROOT / name).exists(), page


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_within_a_page_lead_somewhere(page: Path) -> None:
    """To a heading, by the name that it gets on the web."""
    text = page.read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", text, re.M)
    }

    assert set() == set(re.findall(r"\]\(#([^)]+)\)", text)) - headings


def test_map_names_every_package() -> None:
    """And none that is not there."""
    packages = {
        path.name.removesuffix(".py")
        for path in (ROOT / "broker").iterdir()
        if path.suffix in ("", ".py") and path.name not in ("__pycache__", "__init__.py")
    }
    plan = (ROOT / "docs/design.md").read_text().partition("## The map\n")[2].split("```")[1]

    assert packages == {word for line in plan.splitlines() for word in re.split(r" {3,}", line)[0].split()}


def test_repository_configuration_is_what_make_run_promises() -> None:
    """Loopback only, sandbox and demo on."""
    data = tomllib.loads((ROOT / "config.toml").read_text())

    assert data["sandbox"] == {"enabled": True, "listen": "127.0.0.1:8089", "demo": True}
    assert all(data["server"][key].startswith("127.0.0.1:") for key in ("internal", "public"))


def test_every_limit_is_the_programs() -> None:
    """In the words of its table, and in its order."""
    services, strangers, operators = SERVICES, STRANGERS, OPERATORS
    most = (strangers.per_peer or 0, strangers.connections, services.connections, operators.connections)
    seconds = (f"{services.idle:g} s", f"{services.body_seconds:g} s")
    sizes = (f"{services.body:,} bytes", f"{services.line:,} bytes", f"{services.headers}", f"{QUEUE}")

    assert [*(f"{number:,}" for number in most), *seconds, *sizes] == [
        row[1] for row in rows(chapter("### Limits"))
    ]
    assert f"{services.connections + OTHER_FILES:,} open files" in chapter("### Limits")
