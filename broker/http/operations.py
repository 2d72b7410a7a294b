"""Declares a route once, on its handler: the router, the readers of bodies and queries, and OpenAPI follow from it."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from broker.errors import InvalidRequest, TooLarge
from broker.http import schema
from broker.http.edge import LIMITS
from broker.model import Permission

Allowed = Mapping[str, type | tuple[type, ...]]
"""The permitted members of a body, each with its permitted types."""
Route = TypeVar("Route", bound=Callable[..., Awaitable[web.StreamResponse]])

LARGEST = 2**53
"""The greatest number that every JSON parser reads exactly."""
LONGEST_TEXT = 4096
"""The default for the most characters of a string in a body."""
WORD = re.compile(r"[A-Za-z_]{1,32}", re.ASCII)
"""A name that an error may quote, because no secret has this form."""
TYPES: Allowed = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list}
"""JSON Schema's types in Python."""


@dataclass(frozen=True, slots=True)
class Operation:
    """The declaration of a route, used as a decorator of its handler. A handler may have several."""

    method: str
    path: str
    summary: str = ""
    """A description of the route. Without it docs/api.md shows the handler's docstring."""
    answers: Mapping[str, schema.JSON] = field(default_factory=dict)
    """The Response Objects of OpenAPI by status, except problem documents."""
    permission: Permission | None = None
    """The permission that a service requires of the caller; None if the route needs no caller."""
    query: schema.Parameters = field(default_factory=dict)
    headers: schema.Parameters = field(default_factory=dict)
    body: schema.JSON | None = None
    problems: tuple[str, ...] = ()
    """The codes of problem documents, except those that every route may answer."""
    speaks_problems: bool = True
    """True if errors are problem documents. Pages and OAuth endpoints have other formats."""
    has_head: bool = True
    """True if a GET route answers HEAD too; not if a request changes something."""

    def __call__(self, handler: Route) -> Route:
        if self.permission is None:
            public(handler)
        handler.__dict__["operations"] = (self, *handler.__dict__.get("operations", ()))
        return handler

    @property
    def allowed(self) -> Allowed:
        """The permitted members of the JSON body, from its schema."""
        if self.body is None:
            return {}
        properties = self.body["content"]["application/json"]["schema"]["properties"]
        kinds = {name: member.get("type", "string") for name, member in properties.items()}
        return {name: TYPES[kind if isinstance(kind, str) else kind[0]] for name, kind in kinds.items()}


own_shape = partial(Operation, speaks_problems=False)
"""An operation whose errors are pages or OAuth errors."""


def public(handler: Route) -> Route:
    """Mark a handler of the internal listener as open to requests without a caller."""
    handler.__dict__["is_public"] = True
    return handler


def is_public(handler: object) -> bool:
    """Return whether a handler was marked with `public`."""
    return bool(getattr(handler, "is_public", False))


def routes_of(*services: object) -> list[web.RouteDef]:
    """Return the routes that the methods of some objects declare, in the order of the declarations."""
    return [
        web.route(
            one.method,
            # Also a path with line ends, which aiohttp matches decoded.
            one.path.replace("{path}", "{path:(?s:.*)}"),
            getattr(service, name),
            **({"allow_head": one.has_head} if one.method == "GET" else {}),
        )
        for service in services
        for name, member in vars(type(service)).items()
        for one in getattr(member, "operations", ())
    ]


def operation_of(handler: object, path: str) -> Operation | None:
    """Return the declaration of a handler for a route's path template, or None."""
    operations: tuple[Operation, ...] = getattr(handler, "operations", ())
    return next((one for one in operations if one.path == path), None)


def asked(request: web.Request) -> Operation:
    """Return the declaration of a request's route, or one that permits no parameters."""
    resource = request.match_info.route.resource
    path = "" if resource is None else resource.canonical
    return operation_of(request.match_info.handler, path) or Operation(request.method, path)


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object for `json.loads` as `object_pairs_hook`; raises ValueError if a member is repeated."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members


async def read_body(request: web.Request) -> bytes:
    """Return the body, within the listener's limits of size and time; raises TooLarge, InvalidRequest."""
    limits = request.app[LIMITS]
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await request.read()
    except TimeoutError:
        raise InvalidRequest(f"the body did not arrive within {limits.body_seconds:g} seconds") from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"a body may have {limits.body} bytes") from None
    except (web.RequestPayloadError, ValueError):
        raise InvalidRequest("the body is malformed") from None
    except ConnectionError:
        raise InvalidRequest("the connection ended before the body did") from None


async def read_object(
    request: web.Request, *, longest: int = LONGEST_TEXT, keep_null: bool = False
) -> dict[str, Any]:
    """Return the JSON object of the body after checking its members against the declaration; an empty body is `{}`.

    Members that are null are left out unless `keep_null`. `longest` is the most characters of a string. Raises
    InvalidRequest, TooLarge.
    """
    return object_of(await read_body(request), asked(request).allowed, longest=longest, keep_null=keep_null)


def object_of(
    body: bytes, allowed: Allowed, *, longest: int = LONGEST_TEXT, keep_null: bool = False
) -> dict[str, Any]:
    """Parse a JSON body and check its members; raises InvalidRequest."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body, object_pairs_hook=unique_members)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not a JSON object with unique members") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body is not a JSON object")
    for name, member in value.items():
        if isinstance(member, float) and member.is_integer() and allowed.get(name) is int:
            # 17.0 is the integer 17 (RFC 8259, 6; JSON Schema, 4.2.3).
            value[name] = int(member)
        _check_member(name, value[name], allowed, longest)
    return {name: member for name, member in value.items() if keep_null or member is not None}


def _check_member(name: str, member: object, allowed: Allowed, longest: int) -> None:
    if name not in allowed:
        known = ", ".join(sorted(allowed)) or "none"
        raise InvalidRequest(f"unknown member{_quoted(name)}; known are: {known}")
    wanted = allowed[name]
    wrong_bool = isinstance(member, bool) and wanted is not bool
    if member is not None and (wrong_bool or not isinstance(member, wanted)):
        raise InvalidRequest(f"{name} has the wrong type")
    # NaN is not equal or less, so it is refused as well.
    if isinstance(member, int | float) and not abs(member) <= LARGEST:
        raise InvalidRequest(f"{name} is a number out of range")
    if isinstance(member, str) and (len(member) > longest or not member.isprintable()):
        raise InvalidRequest(f"{name} holds characters that cannot be, or too many")


def check_query(request: web.Request) -> None:
    """Raise InvalidRequest if a query parameter is not declared or is repeated, because it would be ignored."""
    known = asked(request).query
    for name in request.query:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise InvalidRequest(f"unknown parameter{_quoted(name)}; known are: {names}")
        if len(request.query.getall(name)) > 1:
            raise InvalidRequest(f"{name} is there twice; give it once")


def _quoted(name: str) -> str:
    return f" {name!r}" if WORD.fullmatch(name) else ""


def query_number(request: web.Request, name: str) -> int | None:
    """Return a whole number of the query, or None if it is absent; raises InvalidRequest beyond its bounds."""
    bounds = asked(request).query[name][1]
    least, most = bounds["minimum"], bounds["maximum"]
    values = request.query.getall(name, [])
    if not values:
        return None
    text = values[0]
    if len(values) > 1 or not re.fullmatch(r"\d{1,12}", text, re.ASCII) or not least <= int(text) <= most:
        raise InvalidRequest(f"{name} is a whole number from {least} to {most}, given once")
    return int(text)
