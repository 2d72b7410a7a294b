"""`/openapi.json` and `/docs`: describes the routes of a listener in OpenAPI 3.1, from their declarations."""

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial

from aiohttp import web

from broker import __version__, errors
from broker.http import schema
from broker.http.bodies import SHAPES
from broker.http.edge import REQUEST_ID, answer
from broker.http.operations import Operation, operation_of, own_shape
from broker.http.pages import CONTENT_TYPES, Pages

ALL: list[type[errors.BrokerError]] = [errors.BrokerError, *errors.BrokerError.__subclasses__()]
KINDS: Mapping[str, type[errors.BrokerError]] = {
    kind.code: kind
    for kind in ALL
    # Tests may have subclasses of their own.
    if kind.__module__ == errors.__name__
}
EVERYWHERE = ("invalid_request", "internal", "storage_unavailable", "overloaded")
"""The codes that any route may answer."""
WITH_CALLER = ("unauthenticated", "forbidden", "rate_limited", "audit_unavailable")
"""The further codes of routes that need a caller."""
WITH_BODY = ("too_large",)
MEMBERS: Mapping[str, schema.JSON] = {
    "needs_reauthorization": {
        "reason": "revoked_or_expired",
        "since": "2026-11-22T10:00:00Z",
        "reconnect_url": "http://127.0.0.1:8080/dashboard/accounts/acme",
    },
    "rate_limited": {"reason": "rejected_by_provider"},
    "provider_unavailable": {"reason": "provider_unavailable"},
    "provider_rejected_client": {"reason": "provider_rejected_client"},
}
"""Examples of the further members that some problem documents have."""
PROBLEM: schema.JSON = {
    "type": "object",
    "description": "RFC 9457; some codes have further members.",
    "properties": {
        "type": schema.TEXT,
        "title": schema.TEXT,
        "status": {"type": "integer"},
        "detail": schema.TEXT,
        "code": {"type": "string", "enum": list(KINDS)},
        "request_id": {
            **schema.TEXT,
            "description": "Quote it to an operator; the log and the audit have it.",
        },
        "reason": schema.TEXT,
        "since": schema.MOMENT_OR_NULL,
        "reconnect_url": schema.TEXT_OR_NULL,
    },
    "required": ["type", "title", "status", "detail", "code", "request_id"],
}
CHALLENGE = {"required": True, "schema": {"type": "string", "const": "Bearer"}}
SECONDS = {
    "description": "Seconds",
    "required": True,
    "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
}
HEADERS: Mapping[int, schema.JSON] = {
    401: {"WWW-Authenticate": CHALLENGE},
    429: {"Retry-After": SECONDS},
    503: {"Retry-After": SECONDS},
}
"""The headers of a problem document, by status."""
ACTIONS = ["renew", "freeze", "unfreeze", "remove", "restore", "reconnect"]
PATH_PARAMETERS: Mapping[str, tuple[str, schema.JSON, str]] = {
    "account": ("The account's name", schema.NAME, "acme"),
    "action": ("The action", {"type": "string", "enum": ACTIONS}, "renew"),
    "provider": ("The provider's name in the configuration", schema.ref("Provider"), "kit"),
}
"""By name: a description, a schema and an example."""
TAGS: Mapping[str, str] = {
    "": "dashboard",
    ".well-known": "plugin",
    "callback": "installs",
    "docs": "description",
    "healthz": "health",
    "install": "installs",
    "installs": "connecting",
    "login": "installs",
    "metrics": "health",
    "openapi.json": "description",
    "readyz": "health",
    "static": "pages",
    "token": "tokens",
}
"""The group of a route by the first segment of its path, where the two differ."""
CALLER: schema.JSON = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key made by `broker callers add`, or a JWT of a configured caller.",
}


class DescriptionRoutes:
    """The routes that describe one listener."""

    def __init__(self, *, title: str, server: str, providers: Iterable[str], pages: Pages) -> None:
        self._title, self._server, self._providers, self._pages = title, server, providers, pages
        self._operations: list[Operation] = []

    def describe(self, application: web.Application) -> None:
        """Read the declarations of the application's routes; raises LookupError if one is not declared."""
        self._operations = [
            _declared(route.method, route.resource.canonical, route.handler)
            for route in application.router.routes()
            if route.resource is not None and route.method not in ("HEAD", "*")
        ]

    @own_shape(
        "GET",
        "/openapi.json",
        "Return the routes of this listener as OpenAPI 3.1",
        schema.answers_json("OpenAPI 3.1", {"type": "object"}, {"openapi": "3.1.0"}),
    )
    async def openapi(self, _: web.Request) -> web.StreamResponse:
        """Return the OpenAPI document."""
        # Built for each request, because a reload may have changed the providers.
        return answer(document(self._title, self._server, self._providers, self._operations))

    @own_shape(
        "GET", "/docs", "Show the routes of this listener as a page", schema.answers_page("The page", "200")
    )
    async def docs(self, request: web.Request) -> web.StreamResponse:
        """Render the document as a page."""
        groups: dict[str, list[tuple[Operation, schema.JSON]]] = {}
        for one in self._operations:
            groups.setdefault(_tag(one), []).append((one, operation_json(one)))
        return self._pages.render(
            "description.html",
            request_id=request[REQUEST_ID],
            title=self._title,
            groups=groups,
            show=partial(json.dumps, indent=2, ensure_ascii=False),
        )


def document(title: str, server: str, providers: Iterable[str], listed: Iterable[Operation]) -> schema.JSON:
    """Return the OpenAPI document of the operations in `listed`."""
    paths: dict[str, dict[str, schema.JSON]] = {}
    codes = set[str]()
    for one in listed:
        paths.setdefault(one.path, {})[one.method.lower()] = operation_json(one)
        codes.update(_codes(one))
    schemas = {name: shape for name, (shape, _) in SHAPES.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {
            "schemas": {
                **schemas,
                "Problem": PROBLEM,
                "Provider": {"type": "string", "enum": sorted(providers)},
            },
            "securitySchemes": {"caller": CALLER},
            "examples": {code: {"value": _problem_example(code)} for code in KINDS if code in codes},
        },
    }


def operation_json(one: Operation) -> schema.JSON:
    """Return the Operation Object of a route (OpenAPI 3.1, 4.8.10)."""
    words = [word.strip("{}") for word in re.split(r"[./-]", one.path) if word]
    last = "_" if one.path.endswith("/") else ""
    described: schema.JSON = {
        "operationId": "_".join([one.method.lower(), *words]) + last,
        "summary": one.summary,
        "tags": [_tag(one)],
        "responses": {**one.answers, **_problem_answers(one)},
        "security": [] if one.permission is None else [{"caller": []}],
    }
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": told,
            "schema": kind,
            "example": example,
        }
        for name in re.findall(r"\{(\w+)\}", one.path)
        for told, kind, example in [PATH_PARAMETERS[name]]
    ] + [
        {"name": name, "in": place, "required": False, "description": told, "schema": kind}
        for place, options in (("query", one.query), ("header", one.headers))
        for name, (told, kind) in options.items()
    ]
    if parameters:
        described["parameters"] = parameters
    if one.body is not None:
        described["requestBody"] = one.body
    return described


def _declared(method: str, path: str, handler: object) -> Operation:
    one = operation_of(handler, path)
    if one is None and path.startswith("/static/"):
        kind = next(kind for end, kind in CONTENT_TYPES.items() if path.endswith(end))
        version = {
            "v": ("The version of the file; with the current one it may be cached for a year", schema.TEXT)
        }
        told = "Return a style sheet, script or icon of the pages"
        return own_shape("GET", path, told, schema.answers_text("The file", kind), query=version)
    if one is None:
        raise LookupError(f"{method} {path} is a route that nobody has declared")
    return one


def _tag(one: Operation) -> str:
    segment = one.path.split("/")[1]
    return TAGS.get(segment, segment)


def _codes(one: Operation) -> list[str]:
    """Return the codes of all problems that a route may answer."""
    if not one.speaks_problems:
        return []
    asked = [*one.problems, *EVERYWHERE]
    asked += WITH_CALLER if one.permission is not None else ()
    asked += WITH_BODY if one.body is not None else ()
    return [code for code in KINDS if code in asked]


def _problem_answers(one: Operation) -> dict[str, schema.JSON]:
    """Return the problem answers of a route by status, with an example for each code."""
    answers: dict[str, schema.JSON] = {}
    codes = _codes(one)
    for status in sorted({KINDS[code].status for code in codes}):
        mine = [code for code in codes if KINDS[code].status == status]
        if str(status) in one.answers:
            raise ValueError(f"the status {status} is both an answer of its own and a problem")
        answers[str(status)] = {
            "description": " · ".join(f"`{code}`: {KINDS[code].title}" for code in mine),
            "headers": HEADERS.get(status, {}),
            "content": {
                "application/problem+json": {
                    "schema": schema.ref("Problem"),
                    "examples": {code: {"value": _problem_example(code)} for code in mine},
                }
            },
        }
    return answers


def _problem_example(code: str) -> schema.JSON:
    kind = KINDS[code]
    return {
        "type": f"urn:token-broker:error:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.title,
        "code": code,
        "request_id": "3f1c9a5be07d4c21",
        **MEMBERS.get(code, {}),
    }
