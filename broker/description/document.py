"""The document of one listener: the operations of its own routes, no more and no fewer."""

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

from broker import __version__
from broker.description.parts import JSON, KINDS, Operation, problem_example
from broker.description.schemas import SCHEMAS
from broker.description.services import SERVICES
from broker.description.visitors import VISITORS
from broker.description.watching import DASHBOARD, HEALTH, ITSELF, static_file

DESCRIBED: Mapping[tuple[str, str], Operation] = {
    (one.method, one.path): one for one in (*SERVICES, *HEALTH, *DASHBOARD, *VISITORS, *ITSELF)
}
CALLER: JSON = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key made by `broker callers add`, or a JWT of a configured caller.",
}


def operations(routes: Iterable[tuple[str, str]]) -> list[Operation]:
    """What is known of each method and path; raises LookupError where nothing is."""
    return [
        static_file(path) if path.startswith("/static/") else _described(method, path)
        for method, path in routes
    ]


def document(title: str, server: str, providers: Iterable[str], listed: Iterable[Operation]) -> JSON:
    """OpenAPI 3.1."""
    shown = list(listed)
    codes = reduce(lambda found, one: found | set(one.codes), shown, set[str]())
    used: dict[str, Any] = {**SCHEMAS, "Provider": {"type": "string", "enum": sorted(providers)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "servers": [{"url": server}],
        "paths": _paths(shown),
        "components": {
            "schemas": used,
            "securitySchemes": {"caller": CALLER},
            "examples": {code: {"value": problem_example(code)} for code in KINDS if code in codes},
        },
    }


def _paths(shown: list[Operation]) -> dict[str, dict[str, JSON]]:
    paths: dict[str, dict[str, JSON]] = {}
    for one in shown:
        paths.setdefault(one.path, {})[one.method.lower()] = one.json()
    return paths


def _described(method: str, path: str) -> Operation:
    try:
        return DESCRIBED[method, path]
    except KeyError:
        raise LookupError(f"{method} {path} is a route that nobody has described") from None
