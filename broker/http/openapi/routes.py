"""`/openapi.json` and `/docs` of one listener: the operations of its own routes, no more and no fewer."""

import json
from collections.abc import Iterable, Mapping
from functools import partial, reduce
from typing import Any

from aiohttp import web

from broker import __version__
from broker.http.edge import REQUEST_ID, answer, public
from broker.http.openapi.caller_operations import CALLER_OPERATIONS
from broker.http.openapi.parts import JSON, KINDS, SCHEMAS, Operation, problem_example
from broker.http.openapi.public_operations import PUBLIC_OPERATIONS, static_file
from broker.http.pages import Pages

DESCRIBED: Mapping[tuple[str, str], Operation] = {
    (one.method, one.path): one for one in (*CALLER_OPERATIONS, *PUBLIC_OPERATIONS)
}
CALLER: JSON = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key made by `broker callers add`, or a JWT of a configured caller.",
}


def operations(routes: Iterable[tuple[str, str]]) -> list[Operation]:
    """What is known of each method and path; raises LookupError where nothing is."""
    found = []
    for method, path in routes:
        one = static_file(path) if path.startswith("/static/") else DESCRIBED.get((method, path))
        if one is None:
            raise LookupError(f"{method} {path} is a route that nobody has described")
        found.append(one)
    return found


def document(title: str, server: str, providers: Iterable[str], listed: Iterable[Operation]) -> JSON:
    """OpenAPI 3.1."""
    shown = list(listed)
    codes = reduce(lambda found, one: found | set(one.codes), shown, set[str]())
    paths: dict[str, dict[str, JSON]] = {}
    for one in shown:
        paths.setdefault(one.path, {})[one.method.lower()] = one.json()
    used: dict[str, Any] = {**SCHEMAS, "Provider": {"type": "string", "enum": sorted(providers)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {
            "schemas": used,
            "securitySchemes": {"caller": CALLER},
            "examples": {code: {"value": problem_example(code)} for code in KINDS if code in codes},
        },
    }


class DescriptionRoutes:
    """What one listener says of itself."""

    def __init__(self, *, title: str, server: str, providers: Iterable[str], pages: Pages) -> None:
        self._title, self._server, self._providers, self._pages = title, server, providers, pages
        self._operations: list[Operation] = []

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/openapi.json", self.openapi),
            web.get("/docs", self.docs),
        ]

    def describe(self, application: web.Application) -> None:
        """Take in the routes as they are now; raises LookupError where one is not described."""
        found = [
            (route.method, route.resource.canonical)
            for route in application.router.routes()
            if route.resource is not None and route.method != "HEAD"
        ]
        self._operations = operations(found)

    @public
    async def openapi(self, _: web.Request) -> web.StreamResponse:
        # Made anew each time, because a reload may have changed the providers.
        return answer(document(self._title, self._server, self._providers, self._operations))

    @public
    async def docs(self, request: web.Request) -> web.StreamResponse:
        groups: dict[str, list[Operation]] = {}
        for one in self._operations:
            groups.setdefault(one.tag, []).append(one)
        return self._pages.render(
            "description.html",
            request_id=request[REQUEST_ID],
            title=self._title,
            groups=groups,
            show=partial(json.dumps, indent=2, ensure_ascii=False),
        )
