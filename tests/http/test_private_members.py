"""The private members of libraries that the program uses: the one list of them, held against code and library.

A release of the library may drop any of them without a word, so pyproject.toml caps it to a minor version.
"""

import ast
import importlib.metadata
import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import aiohttp
import pytest
import requests
from aiohttp import client_proto, web

ROOT = Path(__file__).parent.parent.parent
PRIVATE: Mapping[type, frozenset[str]] = {
    web.RequestHandler: frozenset({"_loop", "_force_close"}),
    web.Server: frozenset({"_loop", "_kwargs"}),
    web.AppRunner: frozenset({"_make_server"}),
    web.BaseSite: frozenset({"_backlog", "_ssl_context"}),
    aiohttp.TCPConnector: frozenset({"_loop", "_factory", "_create_connection"}),
    client_proto.ResponseHandler: frozenset({"_parser", "_payload"}),
    requests.PreparedRequest: frozenset({"_cookies"}),
}
"""By the class that a class of ours is made from, or whose object it is read from."""
DOCUMENTED = {"_replace", "_exit"}
"""The underscore belongs to the name: named tuples, and `os._exit`."""
LIBRARIES = ("aiohttp", "requests", "yarl", "multidict", "uvloop", "asyncio")


def has(kind: type, member: str) -> bool:
    """Whether the class, or one it is made from, defines the member or assigns it to its objects."""
    return hasattr(kind, member) or any(
        re.search(rf"\bself\.{member}\b[^=\n]*=[^=]", inspect.getsource(one))
        for one in kind.__mro__
        if one.__module__.partition(".")[0] in LIBRARIES
    )


def gone(private: Mapping[type, frozenset[str]]) -> list[str]:
    return [
        f"{kind.__module__}.{kind.__name__}.{member}"
        for kind, members in private.items()
        for member in sorted(members)
        if not has(kind, member)
    ]


def bases(tree: ast.Module) -> Iterator[tuple[ast.ClassDef, type]]:
    """The classes of a module, each with the class of a library that it is made from."""
    for node in ast.walk(tree):
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            name = ast.unparse(base).rpartition(".")[2]
            for kind in PRIVATE:
                if kind.__name__ == name and isinstance(node, ast.ClassDef):
                    yield node, kind


def names(tree: ast.AST) -> Iterator[str]:
    """Every private name that is read, written or defined in it."""
    for node in ast.walk(tree):
        name = getattr(node, "attr", "") or getattr(node, "name", "") or ""
        if isinstance(node, ast.Attribute | ast.FunctionDef | ast.AsyncFunctionDef) and re.match(
            "_[a-z]", name
        ):
            yield name


def used(sources: list[str]) -> set[str]:
    """The private members that these modules take from a library."""
    trees = [ast.parse(source) for source in sources]
    found = {name for tree in trees for node, kind in bases(tree) for name in names(node) if has(kind, name)}
    ours = {name for tree in trees for node in ast.walk(tree) for name in _defined(node)}
    return found | {name for tree in trees for name in names(tree) if name not in ours | DOCUMENTED}


def _defined(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
            yield name
        case _:
            pass


def broker_sources() -> list[str]:
    return [path.read_text() for path in sorted((ROOT / "broker").rglob("*.py"))]


def test_every_private_member_is_still_there() -> None:
    """After an update this names each that is gone."""
    assert [] == gone(PRIVATE)


def test_list_is_complete_and_no_longer_than_what_is_used() -> None:
    assert {name for members in PRIVATE.values() for name in members} == used(broker_sources())


def test_member_that_is_gone_is_named() -> None:
    """The check itself can fail."""
    assert ["aiohttp.web_server.Server._gone"] == gone({web.Server: frozenset({"_gone", "_kwargs"})})


@pytest.mark.parametrize(
    ("source", "member"),
    [
        ("class Mine(web.Server):\n    def f(self): return self._connections", "_connections"),
        ("class Mine(aiohttp.TCPConnector):\n    async def _resolve_host(self): ...", "_resolve_host"),
        ("def f(request): return request.protocol._manager", "_manager"),
    ],
)
def test_planted_use_is_caught(source: str, member: str) -> None:
    """As a member of an own class, as an override, and on somebody's object."""
    assert {member} == used([source])


def test_library_is_capped_to_the_minor_version_that_was_read() -> None:
    """The next one is looked at before it is let in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [requirement] = [one for one in project["dependencies"] if re.match(r"aiohttp\b", one)]
    major, minor, *_ = importlib.metadata.version("aiohttp").split(".")

    assert requirement.endswith(f",<{major}.{int(minor) + 1}")
