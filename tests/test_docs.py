"""The documentation says what the program does: README.md, CONTRIBUTING.md and all pages in docs/ together.

Everything that the program has is explained on some page: keys, commands, routes, codes, reasons, events, metrics,
alert rules, limits, switches, make targets, packages. A table whose first column is called `key`, `command`,
`route`, `code`, `reason`, `event`, `metric`, `alert`, `limit`, `rotation` or `target` names these and nothing else;
a section whose heading is the name counts like a row. Explanations use the program's own sentences, word for word.
The other direction: what any page names (in prose, tables or examples) exists, examples are valid, links lead
somewhere.
"""

import importlib.util
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
from broker.alerts.hooks import KEPT, RETRIES
from broker.app.listeners import OPERATORS, OTHER_FILES, SERVICES, STRANGERS
from broker.cli import broker
from broker.config import ConfigError, Settings, load
from broker.config.settings import IssuedJwt, OwnJwt, PeerUid
from broker.model import EventKind, Reason, Secret
from broker.observe.metrics import Metrics, TokenRequests
from broker.sandbox.faults import ANSWER_FAULTS, SWITCHES, Faults, Mode
from broker.systemd.unit import alert_rules
from broker.tokens.flight import QUEUE
from tests import pages
from tests.certificates import Authority
from tests.house import House
from tests.pages import DOCS, PAGES, ROOT, SHELL, tables

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
LISTENERS = ("Internal listener", "Public listener", "Admin socket")
FILES = r"`((?:broker|tests|docs|packaging|\.ci)/[\w/.]+|Makefile|config\.toml)`"
SECRET = re.compile(r'\{ *(?:credential|file) *= *"[^"]+" *\}')
COMMAND = r"(?:^|[|(] ?)(?:sudo |\.venv/bin/)*(broker|make)(?= )((?: [^\s|#)>;]+)*)"


def reference() -> str:
    """Return the block that shows every key: the one with the most tables."""
    return max((block.text for block in pages.all_blocks("toml")), key=lambda text: text.count("\n["))


def uncommented(text: str) -> str:
    return re.sub(r"^# (\w+ *= )", r"\1", text, flags=re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a configuration may lie, with the public key and the authority that the pages name."""
    (tmp_path / "ca.pem").write_text(Authority().pem)
    public = Ed25519PrivateKey.generate().public_key()
    (tmp_path / "login.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return tmp_path


def loaded(folder: Path, text: str) -> Settings:
    (folder / "config.toml").write_text(text)
    return load(folder / "config.toml", environ={})


def test_reference_block_is_a_valid_configuration(folder: Path) -> None:
    """Every key of the reference is known to the program; those that are off too."""
    settings = loaded(folder, uncommented(reference()))

    assert {"kit", "kustomer", "anything"} == set(settings.providers)


def test_every_key_the_program_reads_is_in_the_block(folder: Path) -> None:
    """No key is read that nobody can find, by the program's own list of what it knows."""
    read = known_keys(folder)

    shown = shown_keys(tomllib.loads(uncommented(reference())) | {"callers": callers_block()["callers"]})

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
    plugins = tomllib.loads(uncommented(reference()))["plugin"]["clients"]
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
    return pages.block_with("[callers.reporting]", "toml")


def test_callers_block_is_a_valid_configuration(folder: Path) -> None:
    """Each way of being a caller that stands in the file is shown by one that is taken."""
    (folder / "login.pem").rename(folder / "reporting.pem")

    settings = loaded(folder, callers_text())

    assert [OwnJwt, IssuedJwt, PeerUid] == [type(one.proof) for one in settings.callers.values()]


def test_block_shows_the_defaults(folder: Path) -> None:
    """But for providers, the login and plugins it is what an empty file gives."""
    shown = loaded(folder, reference())

    assert loaded(folder, "") == replace(shown, providers={}, login=None, plugin=None)


@pytest.mark.parametrize("name", ["kit", "kustomer"])
def test_block_shows_the_defaults_of_a_provider(folder: Path, name: str) -> None:
    """But for ids and secrets it is what the least that one must give leads to."""
    shown = loaded(folder, reference()).providers[name]

    least = loaded(folder, f'[providers.{name}]\nclient_id = "…"\nclient_secret = "..."').providers[name]

    assert least == replace(shown, app_id=None)


@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [
        (row[0].strip("`"), kind, cell)
        for table in tables("key")
        if table.head[1:] == TYPES
        for row in table.rows
        for kind, cell in zip(TYPES, row[1:], strict=True)
    ],
)
def test_default_of_a_type_is_the_programs(folder: Path, key: str, kind: str, value: str) -> None:
    """Giving the value that the table calls the default changes nothing; `none` means no such key."""
    least = MINIMAL.format(type=kind)

    given = least + f"{key} = {'true' if value == 'none' else value.strip('`')}"

    if value == "none":
        with pytest.raises(ConfigError, match="unknown key"):
            loaded(folder, given)
    else:
        assert loaded(folder, least).providers == loaded(folder, given).providers


def configurations() -> list[tuple[str, str]]:
    """The examples of a configuration file, or of a part of it, each with the name of its page."""
    return [
        (block.page, block.text)
        for block in pages.all_blocks("", "toml")
        if block.language == "toml" or re.match(r"(#.*\n)*\[[a-z]", block.text)
    ]


@pytest.mark.parametrize(("page", "text"), configurations())
def test_every_example_of_a_configuration_is_valid(folder: Path, page: str, text: str) -> None:
    """What one copies is taken as it stands, with secrets and keys where they may be had here."""
    if "[callers." in text:
        (folder / "login.pem").rename(folder / "reporting.pem")
    text = re.sub(r"^master *=.*credential.*", "", text, flags=re.MULTILINE)
    lines = text.splitlines(keepends=True)
    text = "".join(SECRET.sub('"secret"', line) if "secret" in line else line for line in lines)

    settings = loaded(folder, text)

    for named in re.findall(r"https://[\w.]+/(?:install|callback)/\w+", PAGES[page]):
        assert named.startswith(("https://broker.example.com/", settings.server.public_url)), named


@pytest.mark.parametrize("name", LISTENERS)
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

    below = [one for one in pages.sections() if one.title == name]
    named = {
        tuple(word.split(" ", 1))
        for one in below
        for table in pages.tables_in(one.page, one.text)
        if table.head[0] == "route"
        for word in pages.names(table)
    }

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

    assert list(json.loads(pages.block_with('"access_token":', "json"))) == list(answer.json)


def assert_explained(kind: str, known: dict[str, tuple[str, ...]]) -> None:
    """Each name is explained on a page, in these words; tables of this kind name nothing else."""
    named = pages.names(*tables(kind))
    missing = [
        name
        for name, words in known.items()
        if not any(explains(told, words) for told in pages.explanations(kind, name))
    ]

    assert (set(), []) == (named - known.keys(), missing)


def explains(told: tuple[str, ...], words: tuple[str, ...]) -> bool:
    """A row has each of the words as a cell; a section has them somewhere in its text."""
    return all(word in (told[0] if len(told) == 1 else told) for word in words)


def test_every_error_code_is_explained() -> None:
    """With its status and sentence, and none that is not there."""
    kinds: list[type[errors.BrokerError]] = [errors.BrokerError, *errors.BrokerError.__subclasses__()]

    # Tests may have subclasses of their own.
    ours = [kind for kind in kinds if kind.__module__ == errors.__name__]

    assert_explained("code", {kind.code: (str(kind.status), kind.title) for kind in ours})


def test_every_reason_is_explained() -> None:
    """In the very words of the program, and none that is not there."""
    assert_explained("reason", {str(reason): (reason.happened, str(reason.what_to_do)) for reason in Reason})


def test_every_event_is_explained() -> None:
    """Each kind that people can hear of, and no other."""
    assert_explained("event", {str(kind): () for kind in EventKind})


def test_every_metric_is_explained() -> None:
    """With its labels and help, and none that is not there."""
    collectors = [
        one for one in vars(Metrics()).values() if isinstance(one, MetricWrapperBase | TokenRequests)
    ]
    rows = [row for one in collectors for row in metric_rows(one)]

    assert_explained("metric", {name: (labels, what) for name, labels, what in rows})


def metric_rows(collector: MetricWrapperBase | TokenRequests) -> list[tuple[str, str, str]]:
    """One for each metric: a collector is one, or collects some."""
    return [
        (
            f"{metric.name}_total" if metric.type == "counter" else metric.name,
            ", ".join(getattr(collector, "_labelnames", getattr(metric, "_labelnames", ()))),
            metric.documentation,
        )
        for metric in collector.describe()
    ]


def test_every_alert_rule_is_named_with_what_to_do() -> None:
    """In the very sentence of its annotation, with its severity, and none that is not there."""
    _, *blocks = re.split(r"^ +- alert: ", alert_rules(), flags=re.MULTILINE)
    patterns = (r"severity: (\w+)", r'^ +todo: "?(.+?)"?$')

    assert_explained(
        "alert",
        {
            block.splitlines()[0]: tuple(re.findall(one, block, re.MULTILINE)[0] for one in patterns)
            for block in blocks
        },
    )


@pytest.mark.parametrize("wait", RETRIES)
def test_schedule_of_retries_is_as_shown(wait: float) -> None:
    """Each pause between two attempts, and when an alert is given up."""
    text = f"{wait:.0f} s" if wait < 60 else f"{wait / 60:.0f} min" if wait < 3600 else f"{wait / 3600:.0f} h"

    assert any(
        f"{text}, " in line for page in DOCS.values() for line in page.splitlines() if "5 s, 30 s" in line
    )
    assert 3 * 86400 == KEPT


def test_every_command_is_named_with_its_help() -> None:
    """And none that is not there."""
    known = {name: (command.get_short_help_str(90),) for name, command in commands(broker)}
    titles = {one.title.strip("`") for one in pages.sections()}

    assert set() == {title for title in titles if title.startswith("broker ")} - known.keys()

    assert_explained(
        "command",
        known | {name: () for name in pages.names(*tables("command")) if not name.startswith("broker ")},
    )


def commands(group: click.Group, name: str = "broker") -> Iterator[tuple[str, click.Command]]:
    for part, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {part}")
        else:
            yield f"{name} {part}", command


def typed() -> list[tuple[str, str]]:
    """The commands of ours and the make targets that the pages tell to type, in their text and in their examples."""
    lines = {span for page in DOCS for span in pages.code_spans(page)}
    lines |= {line for block in pages.all_blocks(*SHELL) for line in block.text.splitlines()}
    found = [one for line in lines for one in re.findall(COMMAND, line)]
    return sorted({(program, re.sub(r"^--config \S+ ?", "", words.strip())) for program, words in found})


@pytest.mark.parametrize("line", [words for program, words in typed() if program == "broker"])
def test_commands_that_the_text_tells_to_type_are_taken(line: str) -> None:
    """Each is a command, with options that it has."""
    words = line.split()
    command: click.Command = broker
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}

    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}


def test_make_targets_that_the_text_tells_to_type_exist() -> None:
    """In whatever order they are typed."""
    lines = [words.partition("=")[0] for program, words in typed() if program == "make"]
    named = {word for line in lines for word in line.split() if re.fullmatch("[a-z][a-z-]*", word)}
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {"run", "test"} <= named <= known


def make_targets() -> dict[str, tuple[str]]:
    """Each target with its help."""
    found = re.findall(r"^([a-z-]+):.*## (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {name: (text,) for name, text in found}


def test_every_make_target_is_named() -> None:
    """With the help that `make` prints, and none that is not there."""
    assert_explained("target", {f"make {name}": text for name, text in make_targets().items()})


def test_every_switch_of_the_sandbox_is_named() -> None:
    """Every mode of rotation too."""
    known = {f"`{switch}`" for switch in (*SWITCHES, *ANSWER_FAULTS)}

    assert any(known <= {f"`{span}`" for span in pages.code_spans(page)} for page in PAGES)
    assert_explained("rotation", {str(mode): () for mode in Mode})


@pytest.mark.parametrize(
    "body", sorted(set(re.findall(r"/_sandbox/faults -d '(.*)'", "".join(DOCS.values()))))
)
def test_switches_that_the_text_tells_to_send_are_taken(body: str) -> None:
    """Each curl line for the sandbox changes what it says."""
    faults, asked = Faults(), json.loads(body)
    before = faults.as_json()

    faults.set(asked.pop("provider"), **asked)

    assert before != faults.as_json()


async def test_routes_of_the_sandbox_are_its_own(house: House) -> None:
    """Each that a page names answers."""
    named = {word for word in pages.names(*tables("route")) if " /_sandbox" in word}

    answers = {word: await status_of(house, *word.split(" ")) for word in named}

    assert {"POST /_sandbox/faults", "GET /_sandbox/record"} <= named
    assert {} == {word: status for word, status in answers.items() if status in (404, 405)}


async def status_of(house: House, method: str, path: str) -> int:
    async with house.session.request(method, house.sandbox.base_url + path, json={}) as response:
        return response.status


async def test_login_response_is_believed(house: House, folder: Path) -> None:
    """The JWT of the few lines on a page signs a person in."""
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
    """What the function on the page gives for this broker's address."""
    names: dict[str, Any] = {"jwt": jwt}
    shown = pages.block_with("def login_response(", "python")
    exec(shown.replace("https://broker.example.com", house.public), names)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return str(names["login_response"](challenge, "user-42", int(house.clock.now()), pem))


async def test_callers_jwt_opens_the_door(house: House) -> None:
    """The JWT of the few lines on a page is that of the caller `reporting`."""
    private = Ed25519PrivateKey.generate()
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (house.folder / "reporting.pem").write_bytes(pem)
    house.extra += '\n[callers.reporting]\naccounts = ["*"]\npublic_key = { file = "reporting.pem" }'
    house.write_config()
    await house.restart()
    await house.connect()
    names: dict[str, Any] = {"jwt": jwt}
    exec(pages.block_with("def caller_jwt(", "python"), names)
    own = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    answer = await house.get("/token/acme", key=names["caller_jwt"]("reporting", int(house.clock.now()), own))

    assert 200 == answer.status


def named_files() -> Iterator[tuple[str, str]]:
    """Each page, and what it names in backquotes: a path from the root of the project."""
    for page in (*DOCS, "SECURITY.md"):
        for path in re.findall(FILES, (ROOT / page).read_text()):
            yield page, path
        for module in re.findall(r"python3? -m (tests[\w.]+)", (ROOT / page).read_text()):
            yield page, module.replace(".", "/")


@pytest.mark.parametrize(("page", "name"), sorted(set(named_files())))
def test_every_file_that_is_named_exists(page: str, name: str) -> None:
    """Every path on a page leads somewhere."""
    assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), page


def links() -> Iterator[tuple[str, str]]:
    """Each page with each link on it, but for those to other sites."""
    for page in (*PAGES, "CHANGELOG.md", "SECURITY.md", "packaging/client/README.md"):
        for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", (ROOT / page).read_text()):
            yield page, link


@pytest.mark.parametrize(("page", "link"), sorted(set(links())))
def test_links_lead_somewhere(page: str, link: str) -> None:
    """To a file, and to a heading by the anchor that it gets on the web."""
    path, _, anchor = link.partition("#")
    target = os.path.relpath((ROOT / page).parent / path, ROOT) if path else page

    assert (ROOT / target).exists()
    assert not anchor or anchor in pages.anchors(target)


def test_readme_is_short_and_leads_to_every_page() -> None:
    """At most 200 lines, and each page of docs/ one click away; records of decisions are listed on their own page."""
    linked = {link.partition("#")[0] for page, link in links() if page == "README.md"}

    assert len(PAGES["README.md"].splitlines()) <= 200
    assert set() == {page for page in DOCS if page.startswith("docs/") and not is_record(page)} - linked


def is_record(page: str) -> bool:
    return page.startswith("docs/decisions/") and page != "docs/decisions/README.md"


@pytest.mark.parametrize("page", [page for page in DOCS if page.startswith("docs/") and not is_record(page)])
def test_every_page_has_a_title_and_leads_on(page: str) -> None:
    """One title, and a last section that names the pages to read next."""
    ranks = pages.headings(page)

    assert ranks[0][0] == 1
    assert [rank for rank, _ in ranks].count(1) == 1
    assert ranks[-1] == (2, "See also")


def test_every_metric_that_is_named_exists() -> None:
    """In an example of a query too."""
    known = {name for one in vars(Metrics()).values() for name, _, _ in metric_rows_of(one)}
    known |= {str(kind) for kind in EventKind}
    named = {
        (page, word) for page in DOCS for word in re.findall(r"(?<![.\w])broker_[a-z_]+[a-z]\b", PAGES[page])
    }

    assert set() == {
        (page, word) for page, word in named if re.sub("_(bucket|count|sum)$", "", word) not in known
    }


def metric_rows_of(value: object) -> list[tuple[str, str, str]]:
    return metric_rows(value) if isinstance(value, MetricWrapperBase | TokenRequests) else []


async def test_every_route_that_is_named_exists(house: House) -> None:
    """Wherever a page names a method and a path, or an address of the broker on this machine."""
    listeners = house.broker.listeners
    known = set().union(*(routes(one) for one in (listeners.internal, listeners.public, listeners.admin)))
    patterns = [
        (method, re.sub(r"\{\w+\}", r"[^/]+", re.escape(path).replace(r"\{", "{").replace(r"\}", "}")))
        for method, path in known
    ]
    text = "\n".join(DOCS.values())
    named = set(re.findall(r"\b(GET|POST|PUT|PATCH|DELETE|HEAD) (/[^\s`?\"')]*)", text))
    named |= {("", path) for path in re.findall(r"127\.0\.0\.1:808[01](/[\w/-]+)", text)}

    assert set() == {
        (method, path)
        for method, path in named
        if not path.startswith("/_sandbox")
        and not any(method in (verb, "", "HEAD") and re.fullmatch(one, path) for verb, one in patterns)
    }


def test_every_dotted_name_is_the_programs(folder: Path) -> None:
    """Each `a.b` in backquotes is a key of a table, or stands in the source: a log event, a module."""
    keys = known_keys(folder)
    source = "\n".join(path.read_text() for path in (ROOT / "broker").rglob("*.py"))
    named = {(page, span) for page in DOCS for span in pages.code_spans(page)}
    dotted = {(page, span) for page, span in named if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span)}

    assert set() == {
        (page, span)
        for page, span in dotted
        if not re.search(r"\.(toml|py|md|jsonl|com|txt|db|key|pem)$", span)
        and not is_key(span, keys)
        and f'"{span}"' not in source
        and f"{span}" not in known_scopes()
        and not is_module(span)
    }


def known_scopes() -> set[str]:
    """Roles at Kustomer, which the program sends or the text asks for."""
    return {"org.admin.apps", "org.permission.apps"}


def is_key(span: str, keys: dict[str, set[str]]) -> bool:
    table, _, key = span.rpartition(".")
    return key in keys.get(re.sub(r"^(providers|plugin\.clients|callers)\.\w+$", r"\1", table), ())


def is_module(span: str) -> bool:
    return span.startswith("broker.") and importlib.util.find_spec(span) is not None


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

    [*found] = tables("limit")
    assert found
    for table in found:
        assert [*(f"{number:,}" for number in most), *seconds, *sizes] == [row[1] for row in table.rows]
    assert any(f"{services.connections + OTHER_FILES:,} open files" in text for text in DOCS.values())
