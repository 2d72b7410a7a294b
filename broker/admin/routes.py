"""The HTTP of operators: health and metrics on the internal listener, everything else on the admin socket."""

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
from broker.http.bodies import caller_json, event_json, rfc3339
from broker.http.edge import (
    CALLER,
    CLIENT,
    REQUEST_ID,
    Handler,
    answer,
    check_query,
    query_number,
    read_object,
)
from broker.http.operations import public
from broker.http.peers import peer_uid
from broker.model import Caller, Permission

EVENTS = 100
RELOAD: web.AppKey[Callable[[], dict[str, Any]]] = web.AppKey("reload")
"""Takes over the configuration file; only the process that was started with one can."""


def operator(uid: int) -> Caller:
    """The caller that stands for a local user."""
    return Caller(f"uid:{uid}", ("*",), frozenset(Permission), credential=f"uid {uid}")


@web.middleware
async def by_peer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Make the peer's uid the caller (SO_PEERCRED)."""
    uid = peer_uid(request.transport)
    if uid is None:
        raise Unauthenticated
    request[CALLER] = operator(uid)
    return await handler(request)


@public
async def alive(_: web.Request) -> web.StreamResponse:
    """Say that the event loop is alive, and nothing else: on the public listener anybody may ask."""
    return answer({"status": "ok"})


class HealthRoutes:
    """`/healthz`, `/readyz`, `/metrics`; none of them calls a provider."""

    def __init__(
        self,
        context: Context,
        *,
        overview: Overview,
        authenticate: Callable[[web.Request], Awaitable[None]],
    ) -> None:
        self._context, self._overview, self._authenticate = context, overview, authenticate

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/healthz", alive), web.get("/readyz", self.ready), web.get("/metrics", self.metrics)]

    @public
    async def ready(self, _: web.Request) -> web.StreamResponse:
        health = self._context.health
        if health.starting or health.stopping:
            return answer(
                {"status": "starting" if health.starting else "stopping", "problems": []}, status=503
            )
        return answer({"status": "degraded" if health.problems else "ok", "problems": health.problems})

    @public
    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Open to `metrics_from`; anybody else needs permission `admin`."""
        if not self._is_known_address(request.get(CLIENT)):
            await self._authenticate(request)
            await self._context.authorizer.require(
                request[CALLER],
                Permission.ADMIN,
                None,
                request_id=request[REQUEST_ID],
                action="metrics",
                reads=True,
            )
        body = await self._overview.metrics_text()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    def _is_known_address(self, client: str | None) -> bool:
        return client is not None and any(
            ip_address(client) in network for network in self._context.settings.server.metrics_from
        )


class AdminRoutes:
    """What only the admin socket answers."""

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

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/callers", self.callers),
            web.post("/callers", self.add_caller),
            web.post("/callers/{name}/rotate", self.rotate_caller),
            web.delete("/callers/{name}", self.remove_caller),
            web.get("/providers", self.providers),
            web.post("/providers/{name}/resume", self.resume_provider),
            web.get("/events", self.events),
            web.get("/check", self.check),
            web.post("/adopt", self.adopt),
            web.post("/reload", self.reload),
            web.get("/version", self.version),
        ]

    async def callers(self, request: web.Request) -> web.StreamResponse:
        check_query(request)
        records = await self._callers.callers(request[CALLER], request_id=request[REQUEST_ID])
        return answer({"callers": [caller_json(record) for record in records]})

    async def add_caller(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(
            request, allowed={"name": str, "accounts": list, "permissions": list, "expires_in": (int, float)}
        )
        record, key = await self._callers.add(
            request[CALLER],
            name=body.get("name", ""),
            accounts=_texts(body.get("accounts", [])),
            permissions=_texts(body.get("permissions", [])),
            expires_in=body.get("expires_in"),
            request_id=request[REQUEST_ID],
        )
        return answer({"key": key.reveal(), "caller": caller_json(record)}, status=201)

    async def rotate_caller(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request, allowed={"now": bool})
        record, key = await self._callers.rotate(
            request[CALLER],
            request.match_info["name"],
            now=body.get("now", False),
            request_id=request[REQUEST_ID],
        )
        return answer({"key": key.reveal(), "caller": caller_json(record)})

    async def remove_caller(self, request: web.Request) -> web.StreamResponse:
        await self._callers.remove(
            request[CALLER], request.match_info["name"], request_id=request[REQUEST_ID]
        )
        return web.Response(status=204)

    async def providers(self, request: web.Request) -> web.StreamResponse:
        check_query(request)
        views = await self._overview.providers(request[CALLER], request_id=request[REQUEST_ID])
        return answer({"providers": [view.json() for view in views]})

    async def resume_provider(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        view = await self._overview.resume(request[CALLER], name, request_id=request[REQUEST_ID])
        return answer(view.json())

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The last events, or those behind `after`; as server-sent events they go on for ever."""
        check_query(request, "after", "limit", "account")
        number = query_number(request, "after", most=2**53)
        limit = query_number(request, "limit", most=1000, least=1)
        after, account = None if number is None else int(number), request.query.get("account")
        events = await self._overview.events(
            request[CALLER],
            after=after,
            limit=EVENTS if limit is None else int(limit),
            account=account,
            request_id=request[REQUEST_ID],
        )
        if "text/event-stream" not in request.headers.get("Accept", ""):
            return answer({"events": [event_json(event) for event in events]})
        if after is None:
            # The last ones come first.
            after = events[0].id - 1 if events else 0
        return await self._streams.follow(request, last_id=after, account=account)

    async def check(self, request: web.Request) -> web.StreamResponse:
        await self._may_look(request, "check")
        of = self._opened()
        checks = [*check_configuration(of), *await check_broker(of)]
        return answer({"checks": [check.json() for check in checks]})

    async def adopt(self, request: web.Request) -> web.StreamResponse:
        copied_at = rfc3339(await self._adoption.copied_at())
        doubtful = await self._adoption.adopt(request[CALLER], request_id=request[REQUEST_ID])
        return answer({"adopted": doubtful is not None, "accounts": doubtful or [], "copied_at": copied_at})

    async def reload(self, request: web.Request) -> web.StreamResponse:
        await self._context.authorizer.require(
            request[CALLER], Permission.ADMIN, None, request_id=request[REQUEST_ID], action="reload"
        )
        return answer(request.app[RELOAD]())

    async def version(self, request: web.Request) -> web.StreamResponse:
        await self._may_look(request, "version")
        return answer({"version": __version__, "started_at": rfc3339(self._started_at)})

    async def _may_look(self, request: web.Request, action: str) -> None:
        """Let an operator look, also while the audit's records wait."""
        await self._context.authorizer.require(
            request[CALLER], Permission.ADMIN, None, request_id=request[REQUEST_ID], action=action, reads=True
        )


def _texts(values: list[object]) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise InvalidRequest("accounts and permissions are lists of texts")
    return [str(value) for value in values]
