"""The HTTP of accounts, on the internal listener and the admin socket."""

from aiohttp import web

from broker.accounts.service import AccountService
from broker.clock import Clock
from broker.errors import InvalidRequest
from broker.http.bodies import account_json
from broker.http.edge import CALLER, REQUEST_ID, answer, check_query, query_number, read_object
from broker.model import Account, Caller, Status
from broker.store.account_queries import AccountQuery

PAGE, MOST = 100, 1000
FILTERS = ("provider", "status", "subject", "expiring_within")


class AccountRoutes:
    """`/accounts` and what hangs below it."""

    def __init__(self, *, service: AccountService, clock: Clock) -> None:
        self._service, self._clock = service, clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/accounts", self.find),
            web.get("/accounts/{account}", self.show),
            web.patch("/accounts/{account}", self.change),
            web.delete("/accounts/{account}", self.remove),
            web.post("/accounts/{account}/freeze", self.freeze),
            web.post("/accounts/{account}/unfreeze", self.unfreeze),
            web.post("/accounts/{account}/restore", self.restore),
        ]

    async def find(self, request: web.Request) -> web.StreamResponse:
        accounts, cursor = await self._service.find(
            request[CALLER],
            self._query(request),
            request_id=request[REQUEST_ID],
            is_gone=lambda: request.transport is None,
        )
        return answer({"accounts": [self._json(account) for account in accounts], "next_cursor": cursor})

    async def show(self, request: web.Request) -> web.StreamResponse:
        return self._answer(await self._service.show(*_who(request), request_id=request[REQUEST_ID]))

    async def change(self, request: web.Request) -> web.StreamResponse:
        allowed = {"label": str, "subject": str, "name": str}
        body = await read_object(request, allowed=allowed, keep_null=True)
        if not body:
            raise InvalidRequest("say what to change: label, subject or name")
        return self._answer(await self._service.change(*_who(request), body, request_id=request[REQUEST_ID]))

    async def freeze(self, request: web.Request) -> web.StreamResponse:
        return self._answer(await self._service.freeze(*_who(request), request_id=request[REQUEST_ID]))

    async def unfreeze(self, request: web.Request) -> web.StreamResponse:
        return self._answer(await self._service.unfreeze(*_who(request), request_id=request[REQUEST_ID]))

    async def restore(self, request: web.Request) -> web.StreamResponse:
        return self._answer(await self._service.restore(*_who(request), request_id=request[REQUEST_ID]))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        purge, revoke = _flag(request, "purge"), _flag(request, "revoke")
        caller, name = _who(request, "purge", "revoke")
        await self._service.remove(caller, name, purge=purge, revoke=revoke, request_id=request[REQUEST_ID])
        return web.Response(status=204)

    def _query(self, request: web.Request) -> AccountQuery:
        check_query(request, *FILTERS, "removed", "cursor", "limit")
        status = request.query.get("status")
        if status is not None and status not in set(Status):
            raise InvalidRequest(f"status is one of: {', '.join(Status)}")
        within = query_number(request, "expiring_within", most=366 * 86400)
        limit = query_number(request, "limit", most=MOST, least=1)
        return AccountQuery(
            provider=request.query.get("provider"),
            status=Status.stored(status) if status else None,
            subject=request.query.get("subject"),
            expiring_before=None if within is None else self._clock.now() + within,
            removed=_flag(request, "removed"),
            after=request.query.get("cursor", ""),
            limit=PAGE if limit is None else int(limit),
        )

    def _answer(self, account: Account) -> web.StreamResponse:
        return answer(self._json(account))

    def _json(self, account: Account) -> dict[str, object]:
        return account_json(account, next_renewal_at=self._service.next_renewal_at(account))


def _who(request: web.Request, *parameters: str) -> tuple[Caller, str]:
    """The caller and the account; refuses other parameters."""
    check_query(request, *parameters)
    return request[CALLER], request.match_info["account"]


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "0")
    if value not in ("0", "1"):
        raise InvalidRequest(f"{name} is 1 or 0")
    return value == "1"
