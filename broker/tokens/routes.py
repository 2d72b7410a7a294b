"""The HTTP routes of tokens: they read the request, call the service and write the answer, and decide nothing."""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import assert_never

from aiohttp import web

from broker.clock import Clock
from broker.errors import InvalidRequest
from broker.http import schema
from broker.http.bodies import answers_shape
from broker.http.edge import CALLER, REQUEST_ID, answer
from broker.http.operations import Operation, query_number, read_object
from broker.model import Caller, Permission
from broker.providers.outcomes import Identified, IdentityLater, IdentityUnknown
from broker.tokens.cache import token_parts
from broker.tokens.policy import is_valid
from broker.tokens.service import Handout, TokenService

PATH = "/token/{account}"
AUTHORIZE = "/authorize-request/{account}"
REJECTED = "X-Rejected-Generation"
AUTHORIZED: schema.JSON = schema.nothing("The token, to be copied onto the request")
AUTHORIZED["204"]["headers"] = {
    "Authorization": {"description": "`Bearer …`", "schema": schema.TEXT},
    "ETag": {"description": "The generation, in quotes", "schema": schema.TEXT},
}
TOKEN = answers_shape("The token", "Token")
TOKEN["200"]["headers"] = {"ETag": {"description": "The generation, in quotes", "schema": schema.TEXT}}
TOKEN["200"]["content"]["text/plain"] = {"schema": schema.TEXT, "example": "kit-access-token\n"}
TESTED = schema.answers_json(
    "What the provider said",
    schema.record(
        {
            "account": schema.NAME,
            "result": {"type": "string", "enum": ["accepted", "another_account", "rejected", "unknown"]},
            "external_id": schema.TEXT_OR_NULL,
            "label": schema.TEXT_OR_NULL,
            "detail": schema.TEXT_OR_NULL,
        }
    ),
    {"account": "acme", "result": "accepted", "external_id": "1", "label": "Acme", "detail": None},
)
NO_TOKEN = (
    "unknown_account",
    "needs_reauthorization",
    "frozen",
    "provider_rejected_client",
    "token_unusable",
    "provider_unavailable",
    "refresh_uncertain",
)


_authorizes = partial(
    Operation,
    summary="A token in a header, for a proxy that asks before it sends a request on; also with a path behind it",
    answers=AUTHORIZED,
    permission=Permission.TOKEN,
    headers={REJECTED: ("The ETag of a token that the provider answered 401 to; it is renewed", schema.TEXT)},
    problems=NO_TOKEN,
    has_head=False,
)


class TokenRoutes:
    """`GET /token/{account}`, `POST /token/{account}/refresh` and the same for reverse proxies."""

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
        """Authenticates the caller again; raises if its credential has expired or was revoked meanwhile."""
        self._operators = operators
        """On the admin socket a renewal is an operator's, which also tries grants that need re-authorization."""

    @Operation(
        "GET",
        PATH,
        "Return a valid access token of the account",
        {**TOKEN, **schema.nothing("The token of that `If-None-Match` is still current", status="304")},
        permission=Permission.TOKEN,
        query={
            "min_ttl": (
                "How many seconds the token must stay valid at least; at most half of its lifetime",
                {**schema.COUNT, "maximum": schema.YEAR},
            ),
            "wait": (
                "Wait up to so many seconds until there is another generation or status, the grant ends, or the broker"
                " stops; needs `If-None-Match`",
                {**schema.COUNT, "maximum": 60},
            ),
        },
        headers={
            "Accept": ("`text/plain` gives the bare token", schema.TEXT),
            "If-None-Match": ("The ETag of the token that the caller has", schema.TEXT),
        },
        problems=NO_TOKEN,
        has_head=False,
    )
    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the account's token, after a long poll if the request asks for one."""
        min_ttl, wait = query_number(request, "min_ttl") or 0.0, query_number(request, "wait")
        name, request_id = request.match_info["account"], request[REQUEST_ID]
        if wait is not None:
            etag = request.headers.get("If-None-Match")
            if etag is None:
                raise InvalidRequest("wait needs If-None-Match with the ETag of the token that you have")
            known = etag.strip().strip('"')
            await self._service.wait(request[CALLER], name, known=known, seconds=wait, request_id=request_id)
            if request.transport is None:
                # The caller has hung up, so no token goes out and none is audited.
                return web.Response(status=304)
            # A caller whose credential was revoked meanwhile gets nothing.
            request[CALLER] = await self._still(request)
        handout = await self._service.get(request[CALLER], name, min_ttl=min_ttl, request_id=request_id)
        return self._answer(request, handout)

    @Operation(
        "POST",
        "/token/{account}/refresh",
        "Renew the token. With `rejected_generation` the permission `token` is enough; without it the broker renews"
        " whatever the state is, once a minute",
        TOKEN,
        # TOKEN is enough with the generation of a token that the provider rejected.
        permission=Permission.REFRESH,
        body=schema.json_body(
            {
                "rejected_generation": {"type": ["integer", "null"], "minimum": 0}
                | {"description": "The generation of the token that the provider answered 401 to"}
            },
            {"rejected_generation": 17},
            required=False,
        ),
        problems=(*NO_TOKEN, "rate_limited"),
    )
    async def refresh(self, request: web.Request) -> web.StreamResponse:
        """Answer with a newer token: for a rejected generation, for an operator, or for a caller that may force it."""
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

    @Operation(
        "POST",
        "/accounts/{account}/test",
        "Ask the provider's identity endpoint with the account's token",
        TESTED,
        permission=Permission.MANAGE,
        problems=NO_TOKEN,
    )
    async def test(self, request: web.Request) -> web.StreamResponse:
        """Answer with the account that the provider named, or why it named none."""
        account, outcome = await self._service.test(
            request[CALLER], request.match_info["account"], request_id=request[REQUEST_ID]
        )
        found: dict[str, object] = {"external_id": None, "label": None, "detail": None}
        match outcome:
            case Identified(identity):
                is_ours = account.external_id in (None, identity.external_id)
                result = "accepted" if is_ours else "another_account"
                found |= {"external_id": identity.external_id, "label": identity.label}
            case IdentityUnknown(why, status):
                result, found["detail"] = "rejected" if status == 401 else "unknown", why
            case IdentityLater(why):
                result, found["detail"] = "unknown", why
            case _:
                assert_never(outcome)
        return answer({"account": account.name, "result": result, **found})

    @_authorizes("GET", AUTHORIZE)
    @_authorizes("*", AUTHORIZE + "/{path}")
    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Answer a proxy that asks for each request: nginx's auth_request, Caddy, Traefik; Envoy.

        Envoy repeats the method of the request that it asks about, and its path behind the configured prefix.
        """
        caller, name, request_id = request[CALLER], request.match_info["account"], request[REQUEST_ID]
        rejected = request.headers.get(REJECTED, "").strip('"')
        if not rejected:
            handout = await self._service.get(caller, name, min_ttl=0.0, request_id=request_id)
        elif re.fullmatch(r"\d{1,12}", rejected, re.ASCII):
            handout = await self._service.rejected(caller, name, int(rejected), request_id=request_id)
        else:
            raise InvalidRequest(f"{REJECTED} is the ETag of the token that the provider rejected")
        bearer = f"Bearer {handout.access_token.reveal()}"
        return web.Response(
            status=204, headers={"Authorization": bearer, "ETag": f'"{handout.account.generation}"'}
        )

    def _answer(self, request: web.Request, handout: Handout) -> web.StreamResponse:
        account, token, expires_at = handout.account, handout.access_token, handout.expires_at
        headers = {"ETag": f'"{account.generation}"'}
        if (
            request.method == "GET"
            and request.headers.get("If-None-Match") == headers["ETag"]
            # Only while the `expires_at` given earlier holds: outside the renewal window, without a warning.
            and handout.warning is None
            and handout.expires_in > 1
            and is_valid(account, self._clock.now())
        ):
            return web.Response(status=304, headers=headers)
        if "text/plain" in request.headers.get("Accept", ""):
            return web.Response(text=token.reveal() + "\n", headers=headers)
        head, tail = token_parts(account, token, expires_at=expires_at, warning=handout.warning)
        body = f"{head}{handout.expires_in}{tail}".encode()
        return web.Response(body=body, content_type="application/json", headers=headers)
