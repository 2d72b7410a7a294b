"""Turns a request's credential into a caller, before anything else is looked at."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aiohttp import web

from broker.callers.authenticate import Authenticator
from broker.errors import InvalidRequest, Unauthenticated
from broker.model import Caller, Secret
from broker.observe.metrics import Metrics
from broker.web import CALLER, CLIENT, Handler, is_public

CREDENTIAL = re.compile(r"[Bb]earer +([\x21-\x7e]{1,4096})", re.ASCII)


def authenticating(
    authenticators: Sequence[Authenticator], metrics: Metrics
) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """A middleware that refuses whoever has no valid credential, but for routes marked public."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_public(request.match_info.handler):
            await authenticate(request, authenticators, metrics)
        return await handler(request)

    return middleware


async def authenticate(
    request: web.Request, authenticators: Sequence[Authenticator], metrics: Metrics
) -> None:
    """Put the caller into the request; raises Unauthenticated, which says nothing of why."""
    try:
        caller = await _caller(request, authenticators)
    except Unauthenticated as exc:
        metrics.auth_failures.labels(exc.members.get("why", "unknown")).inc()
        raise Unauthenticated from exc
    request[CALLER] = replace(caller, address=request.get(CLIENT))


async def _caller(request: web.Request, authenticators: Sequence[Authenticator]) -> Caller:
    headers = request.headers.getall("Authorization", [])
    if len(headers) > 1:
        raise InvalidRequest("there is more than one Authorization header")
    if not headers:
        raise Unauthenticated(why="missing")
    form = CREDENTIAL.fullmatch(headers[0])
    if form is None:
        raise Unauthenticated(why="malformed")
    for authenticator in authenticators:
        caller = await authenticator.authenticate(Secret(form[1]))
        if caller is not None:
            return caller
    raise Unauthenticated(why="unknown")
