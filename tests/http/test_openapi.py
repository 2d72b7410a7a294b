"""`/openapi.json` and `/docs`: every route and every error, no other, and examples that fit."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import pytest_asyncio
from aiohttp import web

from broker import errors
from broker.http.openapi import DescriptionRoutes
from broker.http.pages import Pages
from tests.house import Answer, House, open_house

pytestmark = pytest.mark.asyncio(loop_scope="module")
BOTH = pytest.mark.parametrize("listener", ["internal", "public"])


async def read(house: House, listener: str, path: str) -> Answer:
    """Without any key."""
    base = house.internal if listener == "internal" else house.public
    async with house.session.get(base + path) as response:
        return Answer(response.status, response.headers.copy(), await response.read())


def routes(house: House, listener: str) -> set[tuple[str, str]]:
    """Without those of any method, for which OpenAPI has no word."""
    application: web.Application = getattr(house.broker.listeners, listener)
    return {
        (route.method, route.resource.canonical)
        for route in application.router.routes()
        if route.resource is not None and route.method not in ("HEAD", "*")
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="full")
async def _full(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """With every room there is: the sandbox brings `[plugin]` and `[login]`."""
    async with open_house(tmp_path_factory.mktemp("described") / "house") as house:
        assert house.broker.plugin is not None
        assert house.broker.installs.login is not None
        yield house


@BOTH
async def test_every_route_is_described_and_no_other(full: House, listener: str) -> None:
    """Each listener shows its own."""
    document = (await read(full, listener, "/openapi.json")).json

    described = {(method.upper(), path) for path, ways in document["paths"].items() for method in ways}

    assert routes(full, listener) == described


async def test_route_that_nobody_declared_stops_the_start() -> None:
    """So that it is not forgotten."""

    async def new(_: web.Request) -> web.StreamResponse:
        return web.Response()

    application = web.Application()
    application.add_routes([web.get("/new", new)])
    description = DescriptionRoutes(
        title="", server="", providers=(), pages=Pages(sandbox=False, https=False)
    )

    with pytest.raises(LookupError, match="GET /new"):
        description.describe(application)


async def test_every_error_code_is_in_it(full: House) -> None:
    """In the schema, and as an example of some answer, but for those that any address may give."""
    document = (await read(full, "internal", "/openapi.json")).json
    kinds: list[type[errors.BrokerError]] = [errors.BrokerError, *errors.BrokerError.__subclasses__()]

    known = {kind.code for kind in kinds if kind.__module__ == errors.__name__}
    examples = {name for one in answers(document) for name in content_of(one).get("examples", {})}

    assert known == set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])
    assert known - {"not_found", "method_not_allowed"} == examples


def answers(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for ways in document["paths"].values():
        for operation in ways.values():
            yield from operation["responses"].values()


def content_of(answer: dict[str, Any]) -> dict[str, Any]:
    problem: dict[str, Any] = answer.get("content", {}).get("application/problem+json", {})
    return problem


@BOTH
async def test_examples_fit_their_schemas(full: House, listener: str) -> None:
    """Those of bodies, of answers and of problems."""
    document = (await read(full, listener, "/openapi.json")).json

    checked = [misfit(document, content, example) for content, example in examples(document)]

    assert len(checked) > 10
    assert [] == [wrong for wrong in checked if wrong is not None]


def examples(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    for ways in document["paths"].values():
        for operation in ways.values():
            for one in (operation.get("requestBody", {}), *operation["responses"].values()):
                for content in one.get("content", {}).values():
                    if "example" in content:
                        yield content, content["example"]
                    for example in content.get("examples", {}).values():
                        yield content, example["value"]


def misfit(document: dict[str, Any], content: dict[str, Any], example: object) -> str | None:
    schema = {**content["schema"], "components": document["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema)
    return next((f"{error.message}: {example}" for error in validator.iter_errors(example)), None)


@BOTH
async def test_page_for_people_shows_every_route(full: House, listener: str) -> None:
    """Without a key, since it tells only what is in docs/, and with nothing of another host in it."""
    page = await read(full, listener, "/docs")
    text = page.body.decode()

    shown = set(re.findall(r"<code>(GET|POST|PATCH|DELETE) (/[^<]*)</code></h3>", text))

    assert 200 == page.status
    assert routes(full, listener) == shown
    assert "`" not in text
    assert [] == re.findall(r"(?:src|href)=\"(?!/|#)[^\"]*|<script|<style|style=", text)


@BOTH
async def test_page_for_people_runs_nothing(full: House, listener: str) -> None:
    """The policy of all pages holds: no script, no other host."""
    page = await read(full, listener, "/docs")

    policy = page.headers["Content-Security-Policy"]

    assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self';")
    assert "script-src" not in policy


async def test_without_the_plugin_it_is_not_described(tmp_path: Path) -> None:
    """The document is of the routes that are there."""
    async with open_house(tmp_path / "house", extra="[plugin]\nenabled = false") as house:
        documents = [
            (await read(house, listener, "/openapi.json")).json for listener in ("internal", "public")
        ]

    assert [] == [path for document in documents for path in document["paths"] if "/plugin/" in path]


async def test_document_tells_no_secret(full: House) -> None:
    """Neither configured ones nor the key of a caller."""
    texts = [
        (await read(full, listener, path)).body.decode()
        for listener in ("internal", "public")
        for path in ("/openapi.json", "/docs")
    ]

    assert not [text for text in texts if "sandbox-kit-secret" in text or full.key in text]
    assert {"3.1.0"} == {json.loads(text)["openapi"] for text in texts if text.startswith("{")}
