"""The HTTP of tokens: reads the request, asks the service, writes the answer; decides nothing."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.clock import Clock
from broker.errors import InvalidRequest
from broker.http import schema
from broker.http.bodies import answers_shape
from broker.http.edge import CALLER, REQUEST_ID
from broker.http.operations import Operation, query_number, read_object
from broker.model import Account, Caller, Permission
from broker.tokens.cache import token_parts
from broker.tokens.policy import is_living
from broker.tokens.service import Handout, TokenService

PATH = "/token/{account}"
TOKEN = answers_shape("The token", "Token")
TOKEN["200"]["headers"] = {"ETag": {"description": "The generation, in quotes", "schema": schema.TEXT}}
TOKEN["200"]["content"]["text/plain"] = {"schema": schema.TEXT, "example": "kit-access-token\n"}
NO_TOKEN = (
    "unknown_account",
    "needs_reauthorization",
    "frozen",
    "provider_rejected_client",
    "token_unusable",
    "provider_unavailable",
    "refresh_uncertain",
)


class TokenRoutes:
    """`GET /token/{account}` and `POST /token/{account}/refresh`."""

    def __init__(
        self,
        *,
        service: TokenService,
        clock: Clock,
        still: Callable[[web.Request], Awaitable[Caller]],
        operators: bool = False,
    ) -> None:
        self._service, self._clock = service, clock
        self._still = still
        """The caller as the credential stands now; raises what an expired or revoked one leads to."""
        self._operators = operators
        """On the admin socket a renewal is an operator's override, not a caller's demand."""

    @Operation(
        "GET",
        PATH,
        "A token that lives",
        {**TOKEN, **schema.nothing("The generation that you have still holds", status="304")},
        permission=Permission.TOKEN,
        query={
            "min_ttl": (
                "At least so many seconds of real life, half of the token's life at most",
                {**schema.COUNT, "maximum": schema.YEAR},
            ),
            "wait": (
                "Wait so many seconds for another generation or status; only with `If-None-Match`",
                {**schema.COUNT, "maximum": 60},
            ),
        },
        headers={
            "Accept": ("`text/plain` gives the bare token", schema.TEXT),
            "If-None-Match": ("The ETag that you have", schema.TEXT),
        },
        problems=NO_TOKEN,
        has_head=False,
    )
    async def get(self, request: web.Request) -> web.StreamResponse:
        min_ttl = query_number(request, "min_ttl") or 0.0
        wait = query_number(request, "wait")
        if wait is not None:
            await self._wait(request, wait)
            if request.transport is None:
                # Nobody is there any more, so no token goes out and none is written down.
                return web.Response(status=304)
        handout = await self._service.get(
            request[CALLER], request.match_info["account"], min_ttl=min_ttl, request_id=request[REQUEST_ID]
        )
        return self._answer(request, handout)

    @Operation(
        "POST",
        "/token/{account}/refresh",
        "Renew it; `rejected_generation` says that the provider answered 401 to that one",
        TOKEN,
        # TOKEN is enough with the generation of a token that the provider rejected.
        permission=Permission.REFRESH,
        body=schema.json_body(
            {"rejected_generation": {"type": ["integer", "null"], "minimum": 0}},
            {"rejected_generation": 17},
            required=False,
        ),
        problems=(*NO_TOKEN, "rate_limited"),
    )
    async def refresh(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        name, caller, request_id = request.match_info["account"], request[CALLER], request[REQUEST_ID]
        generation = body.get("rejected_generation")
        if generation is not None:
            if generation < 0:
                raise InvalidRequest("rejected_generation is the generation of the token that was rejected")
            handout = await self._service.rejected(caller, name, generation, request_id=request_id)
        elif self._operators:
            handout = await self._service.override(caller, name, request_id=request_id)
        else:
            handout = await self._service.force(caller, name, request_id=request_id)
        return self._answer(request, handout)

    async def _wait(self, request: web.Request, seconds: float) -> None:
        known = request.headers.get("If-None-Match")
        if known is None:
            raise InvalidRequest("wait needs If-None-Match with the ETag of the token that you have")
        await self._service.wait(
            request[CALLER],
            request.match_info["account"],
            known=known.strip().strip('"'),
            seconds=seconds,
            request_id=request[REQUEST_ID],
        )
        if request.transport is not None:
            # Who was shut out meanwhile gets nothing.
            request[CALLER] = await self._still(request)

    def _answer(self, request: web.Request, handout: Handout) -> web.StreamResponse:
        headers = {"ETag": etag(handout.account)}
        if request.method == "GET" and self._still_holds(request, handout):
            return web.Response(status=304, headers=headers)
        if "text/plain" in request.headers.get("Accept", ""):
            return web.Response(text=handout.access_token.reveal() + "\n", headers=headers)
        body = token_json(handout).encode()
        return web.Response(body=body, content_type="application/json", headers=headers)

    def _still_holds(self, request: web.Request, handout: Handout) -> bool:
        """304 only while the `expires_at` given earlier holds: outside the window, without a warning."""
        settled = (
            handout.warning is None
            and handout.expires_in > 1
            and is_living(handout.account, self._clock.now())
        )
        return settled and request.headers.get("If-None-Match") == etag(handout.account)


def etag(account: Account) -> str:
    """Return the ETag of an answer with this token."""
    return f'"{account.generation}"'


def token_json(handout: Handout) -> str:
    """Return a token as the API answers it."""
    head, tail = token_parts(
        handout.account, handout.access_token, expires_at=handout.expires_at, warning=handout.warning
    )
    return f"{head}{handout.expires_in}{tail}"
