"""`/openapi.json` and `/docs` of one listener: the operations of its own routes, no more and no fewer."""

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial, reduce
from typing import Any

from aiohttp import web

from broker import __version__
from broker.http.edge import REQUEST_ID, answer
from broker.http.openapi.parts import JSON, KINDS, SCHEMAS, Operation, path_parameter, problem_example, ref
from broker.http.openapi.public_operations import ACTIONS, PUBLIC_OPERATIONS, static_file
from broker.http.operations import Operation as Declared
from broker.http.operations import operation_of, public
from broker.http.pages import Pages

DESCRIBED: Mapping[tuple[str, str], Operation] = {(one.method, one.path): one for one in PUBLIC_OPERATIONS}
TAGS = {
    "": "dashboard",
    ".well-known": "plugin",
    "accounts": "accounts",
    "callback": "installs",
    "dashboard": "dashboard",
    "docs": "description",
    "events": "events",
    "healthz": "health",
    "install": "installs",
    "installs": "connecting",
    "login": "installs",
    "metrics": "health",
    "openapi.json": "description",
    "plugin": "plugin",
    "readyz": "health",
    "static": "pages",
    "token": "tokens",
}
"""By the first segment of a path."""
PATH_PARAMETERS: Mapping[str, JSON] = {
    "account": path_parameter("account", "The account's name"),
    "action": path_parameter("action", "Which", {"type": "string", "enum": ACTIONS}, "renew"),
    "provider": path_parameter("provider", "As the configuration calls it", ref("Provider"), "kit"),
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


def _described(one: Declared) -> Operation:
    """A declaration with what its path says."""
    options = [("query", one.query), ("header", one.headers)]
    return Operation(
        one.method,
        one.path,
        one.summary,
        TAGS[one.path.split("/")[1]],
        one.answers,
        (
            *(PATH_PARAMETERS[name] for name in re.findall(r"\{(\w+)\}", one.path)),
            *(
                {"name": name, "in": place, "required": False, "description": told, "schema": schema}
                for place, parameters in options
                for name, (told, schema) in parameters.items()
            ),
        ),
        one.body,
        one.problems,
        one.permission is not None,
        one.speaks_problems,
    )


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
        self._operations = []
        for route in application.router.routes():
            if route.resource is not None and route.method != "HEAD":
                path = route.resource.canonical
                declared = operation_of(route.handler, path)
                self._operations += (
                    operations([(route.method, path)]) if declared is None else [_described(declared)]
                )

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
