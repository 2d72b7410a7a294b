"""Bad input to the API, row by row as the catalogue has it; rows with a test elsewhere are in `catalogue.py`."""

import ast
import io
import json
from importlib.metadata import version
from pathlib import Path

import pytest
import structlog
from aiohttp import http_parser, web
from prometheus_client.metrics import MetricWrapperBase

from broker.observe.metrics import Metrics
from tests.hostile.catalogue import API, INSTALLS
from tests.hostile.conftest import Target
from tests.hostile.wire import statuses, talk

ROOT = Path(__file__).parent.parent.parent
CANARY = b"canary-52ae07"
CLOSED = {"provider", "outcome", "status", "reason", "kid", "invariant"}
"""Labels with values from lists of ours, or from the configuration."""


def get(path: str, *fields: bytes) -> bytes:
    lines = [f"GET {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_parser_is_the_strict_one() -> None:
    """Row “aiohttp advisories”: at least 3.14.3, the C parser, and no switch for leniency anywhere."""
    lenient = [path for path in (ROOT / "broker").rglob("*.py") if "lax" in path.read_text().lower().split()]

    assert [3, 14, 3] <= [int(part) for part in version("aiohttp").split(".")]
    assert http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy
    assert [] == lenient


@pytest.mark.parametrize(
    "credential",
    [
        b"Bearer \xff" + CANARY,
        b"Bearer " + CANARY + b"\xed\xa0\x80",
        b"Bearer tbk_\xff",
        b"Bearer eyJ\xff.eyJ.x",
        b"\xff\xfe",
        b"Bearer \xc2\xa0" + CANARY,
        "Bearer tbk_000000000000_ä".encode("latin-1"),
    ],
)
async def test_surrogates_in_a_credential(target: Target, credential: bytes) -> None:
    """Row “surrogates”: bytes that are no text are an ordinary 401, and nothing of them is told."""
    received = await talk(target.house.internal_port, get("/token/acme", b"Authorization: " + credential))

    assert [401] == statuses(received)
    assert CANARY not in received + target.log.getvalue().encode()


@pytest.mark.parametrize("order", ["good first", "bad first", "the same twice"])
async def test_two_credentials(target: Target, order: str) -> None:
    """Row “duplicate Authorization”: 400, whichever of them would have been right."""
    good, bad = f"Authorization: Bearer {target.house.key}".encode(), b"authorization: Bearer " + CANARY
    fields = {"good first": [good, bad], "bad first": [bad, good], "the same twice": [good, good]}

    received = await talk(target.house.internal_port, get("/token/acme", *fields[order]))

    assert ([400], b'"code":"invalid_request"' in received) == (statuses(received), True)
    assert target.house.key not in target.log.getvalue()


def test_bodies_are_read_in_one_place() -> None:
    """Row “request.post()”: nobody else calls what answers 500 to a bogus charset, or reads without an end."""
    reading = {"post", "json", "text", "read", "multipart", "readany", "iter_chunked", "iter_any"}
    found = []
    for path in sorted((ROOT / "broker").rglob("*.py")):
        if "sandbox" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in reading
            ):
                called = ast.unparse(node.func)
                if called.startswith("request."):
                    found.append(f"{path.name}: {called}")

    # An operator's audit has no end; it is read block by block and never held.
    assert ["audit.py: request.content.iter_chunked", "operations.py: request.read"] == found


def test_labels_are_from_closed_sets() -> None:
    """Row “metrics”: whatever a caller sends, no label takes it; an account or a caller is never one."""
    labels = {
        label
        for metric in vars(Metrics()).values()
        if isinstance(metric, MetricWrapperBase)
        for label in metric._labelnames
    }

    assert labels <= CLOSED


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\r\n{}", "\x1b[31mred", "a\u2028b", "\ud800", "\x00", '"}{"event":"forged"', "é" * 10_000],
)
def test_line_of_the_log_is_one_line(log: io.StringIO, text: str) -> None:
    """Row “log injection”: one line of ASCII, whatever is in a field, and not a long one."""
    structlog.get_logger().warning("request.answered", account=text)

    [line] = log.getvalue().splitlines()
    assert (True, True, "request.answered") == (line.isascii(), line.isprintable(), json.loads(line)["event"])
    assert len(line) < 8000


async def test_lines_of_hostile_requests_are_lines(target: Target) -> None:
    """Row “log injection”, from outside: methods, ids and paths with line ends inside."""
    hostile = (
        b"X-Request-Id: aaaaaaaa%0d%0a",
        b"X-Request-Id: aaaaaaaa\xc2\x85{}",
        b"X-Request-Id: " + b"a" * 500,
    )
    for field in hostile:
        await talk(target.house.internal_port, get("/token/a%0d%0ab%1b", field))

    lines = target.log.getvalue().lstrip("\0").splitlines()
    ids = [json.loads(line)["request_id"] for line in lines if "request.answered" in line]
    assert (3, True) == (len(ids), all(len(one) == 16 and one.isalnum() for one in ids))


@pytest.mark.parametrize("listener", ["internal", "public"])
async def test_nothing_is_cached(target: Target, listener: str) -> None:
    """Row “caching”: no-store on every answer, good or bad, but for the files of pages."""
    house = target.house
    applications = {"internal": house.broker.listeners.internal, "public": house.broker.listeners.public}
    key, found = f"Authorization: Bearer {house.key}".encode(), {}
    for path in [*paths(applications[listener]), "/nowhere", "/token/BAD", "/token/nobody"]:
        for fields in ((), (key,)):
            found[path, bool(fields)] = await talk(target.address(listener), get(path, *fields))

    kept = [where for where, received in found.items() if b"\r\nCache-Control: no-store\r\n" not in received]
    assert len(found) > 10
    assert [] == kept


def paths(application: web.Application) -> list[str]:
    templates = {
        route.resource.canonical for route in application.router.routes() if route.resource is not None
    }
    return [
        template.replace("{account}", "acme").replace("{provider}", "kit")
        for template in sorted(templates)
        # A stream has no end to wait for; tests/flows/test_listeners.py looks at its headers.
        if not template.startswith("/static/") and template != "/events"
    ]


@pytest.mark.parametrize(
    "named", sorted({test for tests in (*API.values(), *INSTALLS.values()) for test in tests})
)
def test_rows_elsewhere_are_tested_there(named: str) -> None:
    """What the catalogue of these tests refers to exists, and is a test."""
    path, _, name = named.partition("::")

    tree = ast.parse((ROOT / path).read_text())

    assert name in {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
