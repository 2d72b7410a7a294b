"""The outermost layer of every listener: request ids, limits, security headers, and answers to errors."""

import json
import random
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from broker.errors import BrokerError, InvalidRequest, MethodNotAllowed, NotFound, TooLarge
from broker.http.peers import Network, client_address
from broker.model import Caller
from broker.observe.logs import log_answer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SERVER = "token-broker"
SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""The default headers of every answer: no caching, framing, loading of content, sniffing or referrer."""
# Without includeSubDomains, because other hosts of the domain are not the broker's.
HTTPS_ONLY = {"Strict-Transport-Security": "max-age=31536000"}
HEADERS: web.AppKey[Mapping[str, str]] = web.AppKey("headers", dict)
"""The headers of every answer of an application."""
LONGEST_RETRY = 3600
"""The greatest `Retry-After` in seconds."""
SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)
RESERVED = frozenset({"type", "title", "status", "detail", "code", "request_id"})

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
CLIENT: web.RequestKey[str] = web.RequestKey("client", str)
"""The client's address behind trusted proxies; absent on a Unix socket."""

log = structlog.get_logger()
numbers = random.Random(secrets.randbits(128))  # noqa: S311 - names requests, guards nothing, and asks the kernel once


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one listener. Only tests change them; the configuration cannot."""

    connections: int = 1024
    per_peer: int | None = None
    """The most connections of one IPv4 address or IPv6 /64; None for no limit."""
    uncapped: tuple[Network, ...] = ()
    """Networks of peers with many clients, such as proxies, to which `per_peer` does not apply."""
    idle: float = 30.0
    """Seconds for the header of a request to arrive, and for an idle connection to be kept."""
    handshake: float = 10.0
    """Seconds for a TLS handshake."""
    unread: float | None = 30.0
    """Seconds after which a peer that does not read its answer is disconnected; None for no limit."""
    body_seconds: float = 10.0
    body: int = 16 * 1024
    """Bytes of a body after decompression."""
    line: int = 8190
    """Bytes of a request line, and of one header."""
    headers: int = 128
    talking: float = 0.2
    """Seconds after a request in which the client may send another one, for which a stop waits."""


BASE: web.RequestKey[str] = web.RequestKey("base", str)
"""The path prefix of a dashboard session, which was removed from the path that the application sees."""
HAS_BASES: web.AppKey[bool] = web.AppKey("has_bases", bool)
"""True if the application accepts requests with a BASE."""
LIMITS: web.AppKey[Limits] = web.AppKey("limits", Limits)
Shortcut = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]]
SHORTCUT: web.AppKey[Shortcut] = web.AppKey("shortcut")
"""Called for every request before the application, which answers if this returns None."""


def is_page(path: str) -> bool:
    """Return whether a path of the internal listener is for browsers, so that errors are pages."""
    return path in ("/", "/docs", "/dashboard") or path.startswith("/dashboard/")


def answer(
    payload: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an answer with a JSON body."""
    body = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def problem(error: BrokerError, request_id: str) -> web.Response:
    """Return an error as application/problem+json (RFC 9457)."""
    members = {
        "type": f"urn:token-broker:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        **{key: value for key, value in error.members.items() if key not in RESERVED},
    }
    headers = {**SAFE, "Server": SERVER, "X-Request-Id": request_id}
    if error.retry_after is not None:
        headers["Retry-After"] = str(min(LONGEST_RETRY, max(1, round(error.retry_after))))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = json.dumps(members, separators=(",", ":")).encode()
    return web.Response(
        body=body, status=error.status, content_type="application/problem+json", headers=headers
    )


def expected_error(exc: Exception) -> BrokerError:
    """Return the error to answer for an exception. An unexpected one becomes `internal` and is logged."""
    match exc:
        case BrokerError():
            return exc
        case web.HTTPNotFound():
            return NotFound()
        case web.HTTPMethodNotAllowed():
            return MethodNotAllowed(f"allowed here: {', '.join(sorted(exc.allowed_methods))}")
        case web.HTTPRequestEntityTooLarge():
            return TooLarge("the body is larger than this listener accepts")
        case web.HTTPException() if exc.status < 500:
            return InvalidRequest()
        case _:
            log.error("request.crashed", exc_info=exc)
            return BrokerError("An error of ours; quote the request id when you report it")


Render = Callable[[BrokerError, web.Request], web.StreamResponse]


def edge(
    render: Render,
    *,
    listener: str,
    is_stopping: Callable[[], bool],
    trusted_proxies: Sequence[Network] = (),
) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """Return the outermost middleware of a listener: request id, errors rendered by `render`, one log line."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request_id = request_id_of(request)
        request[REQUEST_ID] = request_id
        if client := client_of(request, trusted_proxies):
            request[CLIENT] = client
        try:
            response = await handler(request)
        except Exception as exc:
            if isinstance(exc, ConnectionError) and request.transport is None:
                raise  # the client has disconnected
            response = render(expected_error(exc), request)
            if isinstance(exc, web.HTTPMethodNotAllowed):
                # RFC 9110, 15.5.6.
                response.headers["Allow"] = ", ".join(sorted(exc.allowed_methods))
        # The rest of a body must not be parsed as the next request.
        unread = request.body_exists and (
            not request.content.at_eof() or request.content.exception() is not None
        )
        if not response.prepared and (unread or is_stopping()):
            response.force_close()
        resource, caller = request.match_info.route.resource, request.get(CALLER)
        log_answer(
            listener,
            # The route's template, never the path: paths and queries hold codes, states and tickets.
            resource.canonical if resource is not None else None,
            request.method if request.method.isascii() and len(request.method) < 12 else "?",
            response.status,
            time.perf_counter() - started,
            request_id,
            request.get(CLIENT),
            caller.name if caller else None,
        )
        return response

    return middleware


def as_problem(error: BrokerError, request: web.Request) -> web.StreamResponse:
    """Render an error as a problem document."""
    return problem(error, request[REQUEST_ID])


def new_application(*middlewares: Any, https: bool = False, limits: Limits = Limits()) -> web.Application:
    """Return an application with the default headers and these limits; `https` adds HSTS to the headers."""
    application = web.Application(middlewares=middlewares, client_max_size=limits.body)
    application[LIMITS] = limits
    application[HEADERS] = {**SAFE, **HTTPS_ONLY} if https else SAFE
    application.on_response_prepare.append(_be_safe)
    return application


async def _be_safe(request: web.Request, response: web.StreamResponse) -> None:
    # The middleware would be too late, because it sees a stream only when that has ended.
    if REQUEST_ID in request:
        response.headers["X-Request-Id"] = request[REQUEST_ID]
    # aiohttp's own header would name versions.
    response.headers["Server"] = SERVER
    for name, value in request.app[HEADERS].items():
        response.headers.setdefault(name, value)


def request_id_of(request: web.BaseRequest) -> str:
    """Return the request's X-Request-Id if it is well formed, else a new id."""
    given = request.headers.get("X-Request-Id", "")
    return given if given and SANE_ID.fullmatch(given) else f"{numbers.getrandbits(64):016x}"


def client_of(request: web.BaseRequest, trusted_proxies: Sequence[Network]) -> str | None:
    """Return the client's address behind trusted proxies; None on a Unix socket."""
    forwarded = request.headers.getall("X-Forwarded-For", []) if trusted_proxies else ()
    return client_address(request.remote, forwarded, trusted_proxies)
