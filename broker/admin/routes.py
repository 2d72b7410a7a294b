"""The HTTP of operators: health and metrics on the internal listener, everything else on the admin socket."""

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from aiohttp import web

from broker import __version__
from broker.admin.adoption import Adoption
from broker.admin.audit import AuditCheck
from broker.admin.checks import Check
from broker.admin.overview import Overview
from broker.alerts.routes import Streams
from broker.callers.authorization import Gate
from broker.callers.service import CallerService
from broker.clock import Clock
from broker.errors import InvalidRequest
from broker.model import Permission
from broker.observe.health import Health
from broker.web import CALLER, CLIENT, REQUEST_ID, answer, check_query, public, query_number, read_object
from broker.wire import caller_json, event_json, rfc3339

EVENTS = 100
VERIFY_BLOCK = 64 * 1024
RELOAD: web.AppKey[Callable[[], dict[str, Any]]] = web.AppKey("reload")
"""Takes over the configuration file; only the process that was started with one can."""


@public
async def alive(_: web.Request) -> web.StreamResponse:
    """Say that the event loop is alive, and nothing else: on the public listener anybody may ask."""
    return answer({"status": "ok"})


class HealthRoutes:
    """`/healthz`, `/readyz`, `/metrics`; none of them calls a provider."""

    def __init__(
        self,
        *,
        health: Health,
        overview: Overview,
        metrics_from: Sequence[IPv4Network | IPv6Network],
        authenticate: Callable[[web.Request], Awaitable[None]],
        gate: Gate,
    ) -> None:
        self._health, self._overview, self._gate = health, overview, gate
        self._metrics_from, self._authenticate = metrics_from, authenticate

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", alive),
            web.get("/readyz", self.ready),
            web.get("/metrics", self.metrics),
        ]

    @public
    async def ready(self, _: web.Request) -> web.StreamResponse:
        health = self._health
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
            await self._gate.require(
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
        return client is not None and any(ip_address(client) in network for network in self._metrics_from)


class AdminRoutes:
    """What only the admin socket answers."""

    def __init__(
        self,
        *,
        callers: CallerService,
        overview: Overview,
        adoption: Adoption,
        audit: AuditCheck,
        check: Callable[[], Awaitable[list[Check]]],
        gate: Gate,
        streams: Streams,
        clock: Clock,
    ) -> None:
        self._streams = streams
        self._callers, self._overview, self._adoption = callers, overview, adoption
        self._audit, self._check, self._gate, self._clock = audit, check, gate, clock
        self._started_at = clock.now()

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
            web.get("/audit/verify", self.verify_files),
            web.post("/audit/verify", self.verify_lines),
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
        after = query_number(request, "after", most=2**53)
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await self._follow(
                request, await self._start(request, None if after is None else int(after))
            )
        events = await self._events(request, None if after is None else int(after))
        return answer({"events": events})

    async def check(self, request: web.Request) -> web.StreamResponse:
        await self._may_look(request, "check")
        return answer({"checks": [check.json() for check in await self._check()]})

    async def adopt(self, request: web.Request) -> web.StreamResponse:
        copied_at = rfc3339(await self._adoption.copied_at())
        doubtful = await self._adoption.adopt(request[CALLER], request_id=request[REQUEST_ID])
        return answer({"adopted": doubtful is not None, "accounts": doubtful or [], "copied_at": copied_at})

    async def reload(self, request: web.Request) -> web.StreamResponse:
        await self._gate.require(
            request[CALLER], Permission.ADMIN, None, request_id=request[REQUEST_ID], action="reload"
        )
        return answer(request.app[RELOAD]())

    async def verify_files(self, request: web.Request) -> web.StreamResponse:
        report = await self._audit.own_files(request[CALLER], request_id=request[REQUEST_ID])
        return answer(report.json())

    async def verify_lines(self, request: web.Request) -> web.StreamResponse:
        """The body is lines of the audit, of any length."""
        report = await self._audit.given_lines(
            request[CALLER],
            request.content.iter_chunked(VERIFY_BLOCK),
            part=query_number(request, "part", most=1) == 1,
            request_id=request[REQUEST_ID],
        )
        return answer(report.json())

    async def version(self, request: web.Request) -> web.StreamResponse:
        await self._may_look(request, "version")
        return answer({"version": __version__, "started_at": rfc3339(self._started_at)})

    async def _may_look(self, request: web.Request, action: str) -> None:
        """Let an operator look, also while the audit's records wait."""
        await self._gate.require(
            request[CALLER],
            Permission.ADMIN,
            None,
            request_id=request[REQUEST_ID],
            action=action,
            reads=True,
        )

    async def _events(self, request: web.Request, after: int | None) -> list[dict[str, Any]]:
        limit = query_number(request, "limit", most=1000, least=1)
        found = await self._overview.events(
            request[CALLER],
            after=after,
            limit=EVENTS if limit is None else int(limit),
            account=request.query.get("account"),
            request_id=request[REQUEST_ID],
        )
        return [event_json(event) for event in found]

    async def _start(self, request: web.Request, after: int | None) -> int:
        """Behind which event a stream begins: `after`, else so that the last ones come first."""
        last = await self._events(request, after)
        if after is not None:
            return after
        return int(last[0]["id"]) - 1 if last else 0

    async def _follow(self, request: web.Request, after: int) -> web.StreamResponse:
        return await self._streams.follow(request, last_id=after, account=request.query.get("account"))


def _texts(values: list[object]) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise InvalidRequest("accounts and permissions are lists of texts")
    return [str(value) for value in values]
