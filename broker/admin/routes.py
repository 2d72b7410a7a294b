"""The routes of operators: health and metrics on the internal listener, the others on the admin socket."""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

from aiohttp import web

from broker import __version__
from broker.admin.checks import check_configuration
from broker.admin.copies import Adoption
from broker.admin.overview import Overview
from broker.admin.store_checks import Opened, check_broker
from broker.alerts.routes import Streams
from broker.callers.service import CallerService
from broker.context import Context
from broker.errors import InvalidRequest, Unauthenticated
from broker.http import schema
from broker.http.bodies import caller_json, event_json, rfc3339
from broker.http.edge import CALLER, CLIENT, REQUEST_ID, Handler, answer
from broker.http.operations import Operation, check_query, own_shape, query_number, read_object
from broker.http.peers import peer_uid
from broker.model import Caller, Permission

EVENTS = 100
RELOAD: web.AppKey[Callable[[], dict[str, Any]]] = web.AppKey("reload")
"""Reads the configuration file again. `broker serve` sets it, because only that was started with a file."""


def operator(uid: int) -> Caller:
    """Return the caller for a local user, who may do everything."""
    return Caller(f"uid:{uid}", ("*",), frozenset(Permission), credential=f"uid {uid}")


@web.middleware
async def by_peer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Authenticate by the uid of the process at the other end of the socket (SO_PEERCRED)."""
    uid = peer_uid(request.transport)
    if uid is None:
        raise Unauthenticated
    request[CALLER] = operator(uid)
    return await handler(request)


class AliveRoute:
    """`/healthz`, without authentication, on the internal and the public listener."""

    @own_shape(
        "GET",
        "/healthz",
        "Say that the event loop runs, for load balancers",
        schema.answers_json(
            "The event loop runs",
            schema.record({"status": {"type": "string", "const": "ok"}}),
            {"status": "ok"},
        ),
    )
    async def alive(self, _: web.Request) -> web.StreamResponse:
        """Answer without touching anything but the event loop."""
        return answer({"status": "ok"})


def _readiness(status: str, description: str, word: str) -> dict[str, schema.JSON]:
    words = {"type": "string", "enum": ["ok", "degraded", "starting", "stopping"]}
    shape = schema.shape({"status": (words, word), "problems": (schema.TEXTS, [])})
    return schema.answers_json(description, *shape, status=status)


class HealthRoutes:
    """`/readyz` and `/metrics`. Neither calls a provider."""

    def __init__(
        self,
        context: Context,
        *,
        overview: Overview,
        authenticate: Callable[[web.Request], Awaitable[None]],
    ) -> None:
        self._context, self._overview, self._authenticate = context, overview, authenticate

    @own_shape(
        "GET",
        "/readyz",
        "Say whether tokens can be served, and what is wrong",
        {
            **_readiness("200", "Tokens are served. If `status` is `degraded`, `problems` says why", "ok"),
            **_readiness("503", "The broker is starting or stopping", "stopping"),
        },
    )
    async def ready(self, _: web.Request) -> web.StreamResponse:
        """Answer from memory, so that a hanging store does not make the broker unready."""
        health = self._context.health
        if health.starting or health.stopping:
            return answer(
                {"status": "starting" if health.starting else "stopping", "problems": []}, status=503
            )
        return answer({"status": "degraded" if health.problems else "ok", "problems": health.problems})

    @Operation(
        "GET",
        "/metrics",
        "Return the metrics for Prometheus. Needs the permission `admin`, or an address in `metrics_from`",
        schema.answers_text("The metrics", "text/plain"),
        problems=("unauthenticated", "forbidden"),
    )
    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Authenticate only requests from outside `metrics_from`."""
        networks, client = self._context.settings.server.metrics_from, request.get(CLIENT)
        if client is None or not any(ip_address(client) in network for network in networks):
            await self._authenticate(request)
            await _require_look(self._context, request, "metrics")
        body = await self._overview.metrics_text()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class AdminRoutes:
    """The routes of the admin socket that need several services."""

    def __init__(
        self,
        context: Context,
        *,
        callers: CallerService,
        overview: Overview,
        adoption: Adoption,
        opened: Callable[[], Opened],
        streams: Streams,
    ) -> None:
        self._context, self._opened, self._streams = context, opened, streams
        self._callers, self._overview, self._adoption = callers, overview, adoption
        self._started_at = context.clock.now()

    @Operation("GET", "/callers", permission=Permission.ADMIN)
    async def callers(self, request: web.Request) -> web.StreamResponse:
        """List the callers and their keys, never a key itself."""
        check_query(request)
        records = await self._callers.callers(request[CALLER], request_id=request[REQUEST_ID])
        return answer({"callers": [caller_json(record) for record in records]})

    @Operation(
        "POST",
        "/callers",
        permission=Permission.ADMIN,
        body=schema.json_body(
            {
                "name": schema.TEXT,
                "accounts": schema.TEXTS | {"description": "Globs over account names"},
                "permissions": schema.TEXTS | {"description": "`token` if there are none"},
                "expires_in": {"type": ["number", "null"], "description": "Seconds for which the key works"},
            },
            None,
            "permissions",
        ),
    )
    async def add_caller(self, request: web.Request) -> web.StreamResponse:
        """Add a caller and return its key, which is shown only this once."""
        body = await read_object(request)
        record, key = await self._callers.add(
            request[CALLER],
            name=body.get("name", ""),
            accounts=_texts(body.get("accounts", [])),
            permissions=_texts(body.get("permissions", [])),
            expires_in=body.get("expires_in"),
            request_id=request[REQUEST_ID],
        )
        return answer({"key": key.reveal(), "caller": caller_json(record)}, status=201)

    @Operation(
        "POST",
        "/callers/{name}/rotate",
        permission=Permission.ADMIN,
        body=schema.json_body(
            {"now": schema.FLAG_OR_NULL | {"description": "true: the older of two keys ends now"}}
        ),
    )
    async def rotate_caller(self, request: web.Request) -> web.StreamResponse:
        """Add a second key to a caller and return it. The old key works for 24 more hours."""
        body = await read_object(request)
        record, key = await self._callers.rotate(
            request[CALLER],
            request.match_info["name"],
            now=body.get("now", False),
            request_id=request[REQUEST_ID],
        )
        return answer({"key": key.reveal(), "caller": caller_json(record)})

    @Operation("DELETE", "/callers/{name}", permission=Permission.ADMIN)
    async def remove_caller(self, request: web.Request) -> web.StreamResponse:
        """Remove a caller; its keys stop working."""
        await self._callers.remove(
            request[CALLER], request.match_info["name"], request_id=request[REQUEST_ID]
        )
        return web.Response(status=204)

    @Operation("GET", "/providers", permission=Permission.ADMIN)
    async def providers(self, request: web.Request) -> web.StreamResponse:
        """List the providers with their breakers, pauses and accounts by status."""
        check_query(request)
        views = await self._overview.providers(request[CALLER], request_id=request[REQUEST_ID])
        return answer({"providers": views})

    @Operation("POST", "/providers/{name}/resume", permission=Permission.ADMIN)
    async def resume_provider(self, request: web.Request) -> web.StreamResponse:
        """Close a provider's breaker, so that its accounts are renewed again."""
        name = request.match_info["name"]
        view = await self._overview.resume(request[CALLER], name, request_id=request[REQUEST_ID])
        return answer(view)

    @Operation(
        "GET",
        "/events",
        permission=Permission.ACCOUNTS,
        query={
            "after": ("Only events after the one with this id", schema.COUNT | {"maximum": 2**53}),
            "limit": ("How many at most", schema.LIMIT),
            "account": ("Only events of this account", schema.NAME),
        },
    )
    async def events(self, request: web.Request) -> web.StreamResponse:
        """Return the last events, or those after `after`; as a stream if `Accept` has `text/event-stream`."""
        check_query(request)
        after, account = query_number(request, "after"), request.query.get("account")
        events = await self._overview.events(
            request[CALLER],
            after=after,
            limit=query_number(request, "limit") or EVENTS,
            account=account,
            request_id=request[REQUEST_ID],
        )
        if "text/event-stream" not in request.headers.get("Accept", ""):
            return answer({"events": [event_json(event) for event in events]})
        if after is None:
            # The stream begins with the last events.
            after = events[0].id - 1 if events else 0
        return await self._streams.follow(request, last_id=after, account=account)

    @Operation("GET", "/check", permission=Permission.ADMIN)
    async def check(self, request: web.Request) -> web.StreamResponse:
        """Run the checks that `broker check` prints."""
        await _require_look(self._context, request, "check")
        of = self._opened()
        checks = [*check_configuration(of), *await check_broker(of)]
        return answer({"checks": [check.json() for check in checks]})

    @Operation("POST", "/adopt", permission=Permission.ADMIN)
    async def adopt(self, request: web.Request) -> web.StreamResponse:
        """Renew from this copy of the store from now on; `adopted` is false if it is not a copy."""
        copied_at = rfc3339(await self._adoption.copied_at())
        doubtful = await self._adoption.adopt(request[CALLER], request_id=request[REQUEST_ID])
        return answer({"adopted": doubtful is not None, "accounts": doubtful or [], "copied_at": copied_at})

    @Operation("POST", "/reload", permission=Permission.ADMIN)
    async def reload(self, request: web.Request) -> web.StreamResponse:
        """Read the configuration file again. `problems` says why not, `needs_restart` which keys need a restart."""
        await self._context.authorizer.require(
            request[CALLER], Permission.ADMIN, None, request_id=request[REQUEST_ID], action="reload"
        )
        return answer(request.app[RELOAD]())

    @Operation("GET", "/version", permission=Permission.ADMIN)
    async def version(self, request: web.Request) -> web.StreamResponse:
        """Return the version and the time of the start."""
        await _require_look(self._context, request, "version")
        return answer({"version": __version__, "started_at": rfc3339(self._started_at)})


async def _require_look(context: Context, request: web.Request, action: str) -> None:
    await context.authorizer.require_look(request[CALLER], action, request_id=request[REQUEST_ID])


def _texts(values: list[object]) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise InvalidRequest("accounts and permissions are lists of texts")
    return [str(value) for value in values]
