"""The arrows of the house point one way: who may import whom, as data."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

BROKER = Path(__file__).parent.parent / "broker"

LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"model", "errors", "clock", "times", "config", "files", "version"}),
    frozenset({"encryption", "oauth", "single_flight"}),
    frozenset({"observe"}),
    frozenset({"providers", "store", "systemd", "sandbox"}),
    frozenset({"http"}),
    frozenset({"keys", "audit"}),
    frozenset({"callers"}),
    frozenset({"context"}),
    frozenset({"login"}),
    frozenset({"tokens", "installs", "plugin"}),
    frozenset({"accounts", "alerts"}),
    frozenset({"admin"}),
    frozenset({"dashboard"}),
    frozenset({"client"}),
    frozenset({"app"}),
    frozenset({"demo"}),
    frozenset({"serve"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
"""From the ground up; a room imports itself and what lies below, and no neighbour on its own level but words."""

WORDS = LEVELS[0]
ONLY_IN = {
    "aiosqlite": {"store/sqlite.py"},
    "sqlite3": {"store/sqlite.py", "store/writer.py", "store/backup.py", "sandbox"},
    "prometheus_client": {"observe/metrics.py"},
    "jinja2": {"http/pages", "sandbox"},
    "jwt": {"callers/jws.py", "dashboard", "sandbox"},
    "click": {"cli", "__main__.py"},
    "rich": {"cli"},
    "tomllib": {"config"},
    "httpx": {"client/httpx.py"},
    "requests": {"client/requests.py"},
    "pytest": {"client/testing/fixtures.py"},
}
"""Drivers and libraries with one home each."""

WEB_EDGE = {
    "http/edge.py",
    "http/openapi.py",
    "http/operations.py",
    "http/server.py",
    "http/streams.py",
    "http/browser.py",
    "http/pages",
    "sandbox",
    "app",
    "serve.py",
    "admin",
    "dashboard/session.py",
    "callers/authentication.py",
    "login.py",
    "tokens/hot.py",
}
"""Where `aiohttp.web` may be imported, besides every room's routes.py and its like."""

HTTP_CLIENT = {
    "providers/client.py",
    "alerts/hooks.py",
    "sandbox",
    "cli/providers.py",
    "client/clients.py",
    "client/aiohttp.py",
}
"""Where aiohttp's client may be used."""

CLI_MAY_IMPORT = WORDS | {"cli", "systemd"}
"""At import time; `serve`, `sandbox` and `check` work alone and import what they start when they start it."""

CLIENT_MAY_IMPORT = sys.stdlib_module_names | {"aiohttp", "yarl", "httpx", "requests", "pytest"}
"""`broker.client` runs in other people's programs: it imports itself, and these where `ONLY_IN` lets it."""


@cache
def modules() -> list[tuple[str, ast.Module]]:
    found = sorted(BROKER.rglob("*.py"))
    return [(path.relative_to(BROKER).as_posix(), ast.parse(path.read_text())) for path in found]


def _at_import_time(tree: ast.Module) -> ast.Module:
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.Module(body=[*imported], type_ignores=[])


def room_of(path: str) -> str:
    first = path.split("/", maxsplit=1)[0].removesuffix(".py")
    return "version" if first == "__init__" else first


def imports(tree: ast.AST) -> Iterator[tuple[str, frozenset[str]]]:
    """Module and the names taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, frozenset()
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, frozenset(alias.name for alias in node.names)


def rooms_imported(tree: ast.AST) -> Iterator[str]:
    for module, names in imports(tree):
        if module == "broker":
            yield from ("version" if name == "__version__" else name for name in names)
        elif module.startswith("broker."):
            yield module.split(".")[1]


def level_of(room: str) -> int:
    return next(number for number, level in enumerate(LEVELS) if room in level)


def upward(path: str, tree: ast.AST) -> list[str]:
    """Imports that do not point down."""
    here = room_of(path)
    wrong = []
    for there in rooms_imported(tree):
        if there == here or (here in WORDS and there in WORDS):
            continue
        if level_of(there) >= level_of(here):
            wrong.append(f"{path} imports {there}")
    return wrong


def lives_in(path: str, homes: set[str]) -> bool:
    return any(path == home or path.startswith(home + "/") for home in homes)


def strays(path: str, tree: ast.AST) -> list[str]:
    """Libraries imported outside their home."""
    wrong = []
    for module, names in imports(tree):
        top = module.split(".")[0]
        if top in ONLY_IN and not lives_in(path, ONLY_IN[top]):
            wrong.append(f"{path} imports {top}")
        web = module == "aiohttp.web" or (module == "aiohttp" and "web" in names)
        if web and not (lives_in(path, WEB_EDGE) or path.endswith("routes.py")):
            wrong.append(f"{path} imports aiohttp.web")
        if module == "aiohttp" and not names and not lives_in(path, HTTP_CLIENT):
            wrong.append(f"{path} imports the HTTP client")
    return wrong


def test_every_room_has_a_level() -> None:
    """A new room is put on the plan before it is built."""
    rooms = {room_of(path) for path, _ in modules()}

    assert set() == rooms - frozenset().union(*LEVELS)


def test_dependencies_run_one_way() -> None:
    """Nobody imports a room above, or beside, its own."""
    wrong = [line for path, tree in modules() if room_of(path) != "cli" for line in upward(path, tree)]

    assert [] == wrong


def test_command_line_knows_the_words_and_the_socket() -> None:
    """At import time; what a command starts is imported by that command."""
    wrong = [
        f"{path} imports {there}"
        for path, tree in modules()
        if room_of(path) == "cli"
        for there in rooms_imported(_at_import_time(tree))
        if there not in CLI_MAY_IMPORT
    ]

    assert [] == wrong


def test_libraries_stay_at_home() -> None:
    """Drivers in their module, `aiohttp.web` at the rim, the HTTP client where providers are talked to."""
    assert [] == [line for path, tree in modules() for line in strays(path, tree)]


def foreign_to_the_client(path: str, tree: ast.AST) -> list[str]:
    """What a program that calls the broker would be made to import; `path` is below broker/client."""
    wrong = []
    for module, _ in imports(tree):
        ours = module == "broker.client" or module.startswith("broker.client.")
        if not ours and module.split(".")[0] not in CLIENT_MAY_IMPORT:
            wrong.append(f"{path} imports {module}")
    return wrong


def test_client_imports_nothing_of_the_server() -> None:
    """Nor does the server import the client."""
    parts = [(path, tree) for path, tree in modules() if room_of(path) == "client"]
    server = [(path, tree) for path, tree in modules() if room_of(path) != "client"]

    assert len(parts) > 10
    assert [] == [line for path, tree in parts for line in foreign_to_the_client(path, tree)]
    assert [] == [path for path, tree in server if "client" in rooms_imported(tree)]


def test_client_loads_nothing_of_the_server() -> None:
    """Importing it leaves `broker`, itself and aiohttp in memory; no driver, no other room, no adapter's library."""
    program = "import sys, broker.client; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": str(BROKER.parent)},
    ).stdout.split()

    ours = {name for name in loaded if name.split(".")[0] == "broker"} - {"broker", "broker.client"}
    assert set() == {name for name in ours if not name.startswith("broker.client.")}
    assert set() == set(loaded) & {"httpx", "requests", "structlog", "cryptography", "aiosqlite", "jinja2"}


def test_only_the_composition_root_names_concrete_classes() -> None:
    """A class that is one of several implementations is named where it is built."""
    concrete = {
        "SqliteDatabase",
        "SystemClock",
        "FileSink",
    }
    homes = {"app", "serve.py", "sandbox", "cli"}
    wrong = [
        f"{path} names {name}"
        for path, tree in modules()
        if not lives_in(path, homes)
        for module, names in imports(tree)
        for name in names & concrete
        if module.startswith("broker.") and room_of(path) != module.split(".")[1]
    ]

    assert [] == wrong


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("model.py", "from broker.store import Stores"),
        ("store/accounts.py", "from broker.tokens.service import TokenService"),
        ("tokens/service.py", "from broker.installs.service import InstallService"),
        ("installs/service.py", "import broker.tokens.flight"),
        ("oauth.py", "from broker import encryption"),
        ("providers/kinds.py", "from broker.store.rows import COLUMNS"),
        ("tokens/refresh.py", "from broker import app"),
        ("context.py", "from broker.tokens.service import TokenService"),
        ("store/accounts.py", "from broker.context import Context"),
    ],
)
def test_planted_import_is_caught(path: str, source: str) -> None:
    """The check itself can fail."""
    assert [] != upward(path, ast.parse(source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("tokens/service.py", "from aiohttp import web"),
        ("store/accounts.py", "import sqlite3"),
        ("installs/service.py", "import aiohttp"),
        ("tokens/policy.py", "from prometheus_client import Counter"),
        ("http/edge.py", "import jwt"),
        ("client/clients.py", "import httpx"),
    ],
)
def test_planted_library_is_caught(path: str, source: str) -> None:
    """The check itself can fail."""
    assert [] != strays(path, ast.parse(source))


@pytest.mark.parametrize(
    "source", ["from broker.model import Secret", "import structlog", "from broker import __version__"]
)
def test_planted_import_of_the_client_is_caught(source: str) -> None:
    """The check itself can fail."""
    assert [] != foreign_to_the_client("client/core.py", ast.parse(source))
