"""The routes of the plugin server for programs: tokens for clients, introspection for services."""

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from broker.config.settings import PluginClient
from broker.errors import BrokerError, InvalidRequest
from broker.http import schema
from broker.http.bodies import answers_shape, plugin_grant_json, rfc3339
from broker.http.edge import CALLER, REQUEST_ID, answer
from broker.http.operations import Operation, check_query, own_shape, query_number, read_body, read_object
from broker.model import Permission
from broker.plugin.clients import Clients, Refused, read_parameters, required
from broker.plugin.consent import ConsentService
from broker.plugin.grants import GrantService

AUTH_METHODS = ["client_secret_basic", "client_secret_post"]
PROGRAM_PATHS = frozenset({"/plugin/token", "/plugin/refresh", "/plugin/revoke"})
"""Paths for programs, where all errors are JSON."""
REALM = 'Basic realm="token-broker", charset="UTF-8"'
NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}
PAGE = 100
CREDENTIALS = {"client_id": schema.TEXT, "client_secret": schema.TEXT}
REFUSED = {
    status: schema.answers_json(
        "Refused", schema.ref("OAuthError"), {"error": error, "error_description": "Why."}
    )["200"]
    for status, error in (
        ("400", "invalid_grant"),
        ("401", "invalid_client"),
        ("413", "invalid_request"),
        ("500", "server_error"),
        ("503", "temporarily_unavailable"),
    )
}
"""RFC 6749, 5.2."""


def metadata(issuer: str, clients: Iterable[PluginClient]) -> dict[str, Any]:
    """Return the server's metadata (RFC 8414). It does not name introspection, which is not public."""
    scopes = sorted({scope for client in clients for scope in client.scopes})
    document = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/plugin/authorize",
        "token_endpoint": f"{issuer}/plugin/token",
        "revocation_endpoint": f"{issuer}/plugin/revoke",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
        "authorization_response_iss_parameter_supported": True,
    }
    # A claim without elements has to be left out (RFC 8414 3.2).
    return {**document, "scopes_supported": scopes} if scopes else document


def _token(path: str) -> Operation:
    properties = ("code", "redirect_uri", "code_verifier", "refresh_token", "scope", *CREDENTIALS)
    kinds = {"type": "string", "enum": ["authorization_code", "refresh_token"]}
    return own_shape(
        "POST",
        path,
        "Exchange a code or a refresh token for tokens; JSON or a form, whatever the content type",
        {**answers_shape("The tokens", "Issued"), **REFUSED},
        body=schema.form_or_json(
            {
                "type": "object",
                "properties": {"grant_type": kinds, **dict.fromkeys(properties, schema.TEXT)},
                "required": ["grant_type"],
            },
            {
                "grant_type": "authorization_code",
                "code": "tbc_example",
                "redirect_uri": "https://app.kit.com/apps",
                "client_id": "kit-plugin",
                "client_secret": "…",
            },
        ),
    )


class ClientRoutes:
    """The endpoints for clients: tokens, revocation and metadata."""

    def __init__(self, *, service: GrantService, clients: Clients, issuer: str) -> None:
        self._service, self._clients, self._issuer = service, clients, issuer

    @_token("/plugin/token")
    @_token("/plugin/refresh")
    async def token(self, request: web.Request) -> web.StreamResponse:
        """Exchange a code or a refresh token, at either path."""
        try:
            parameters = read_parameters(await read_body(request), request.query)
            grant_type = required(parameters, "grant_type").reveal()
            if grant_type not in ("authorization_code", "refresh_token"):
                raise Refused(
                    "unsupported_grant_type", "The grant_type is authorization_code or refresh_token."
                )
            is_renewal = grant_type == "refresh_token"
            client = self._clients.authenticate(
                request.headers.getall("Authorization", []), parameters, renewing=is_renewal
            )
            exchange = self._service.renew if is_renewal else self._service.redeem
            issued = await exchange(client, parameters, request_id=request[REQUEST_ID])
        except Refused as exc:
            return refused(exc)
        # RFC 6749 5.1, and `created_at`, which Kit reads.
        body = {
            "access_token": issued.tokens.access.reveal(),
            "token_type": "Bearer",
            "expires_in": issued.expires_in,
            "refresh_token": issued.tokens.refresh.reveal(),
            "created_at": int(issued.pair.created_at),
            "scope": issued.pair.scope,
        }
        return answer(body, headers=NOT_STORED)

    @own_shape(
        "POST",
        "/plugin/revoke",
        "End a grant by one of its tokens (RFC 7009)",
        {**schema.answers_json("The token is no longer valid", {"type": "object"}, {}), **REFUSED},
        body=schema.form_or_json(
            {"type": "object", "properties": {"token": schema.TEXT, **CREDENTIALS}, "required": ["token"]},
            {"token": "tbr_example", "client_id": "kit-plugin", "client_secret": "…"},
        ),
    )
    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Revoke a token (RFC 7009). Unknown tokens get the same answer."""
        try:
            parameters = read_parameters(await read_body(request), request.query)
            client = self._clients.authenticate(request.headers.getall("Authorization", []), parameters)
            token = required(parameters, "token")
            await self._service.revoke(client, token, request_id=request[REQUEST_ID])
        except Refused as exc:
            return refused(exc)
        return answer({}, headers=NOT_STORED)

    @own_shape(
        "GET",
        "/.well-known/oauth-authorization-server",
        "Return the metadata of the authorization server (RFC 8414)",
        schema.answers_json("The metadata", {"type": "object"}, {"issuer": "https://broker.example.com"}),
    )
    async def metadata(self, _: web.Request) -> web.StreamResponse:
        """Answer with the server's metadata (RFC 8414)."""
        return answer(metadata(self._issuer, self._clients.by_name.values()))


class PluginApi:
    """The endpoints for services: introspection and connect codes, on the internal listener and the admin socket."""

    def __init__(
        self, *, service: GrantService, consent: ConsentService, clients: Clients, issuer: str
    ) -> None:
        self._service, self._consent, self._clients, self._issuer = service, consent, clients, issuer

    @Operation(
        "POST",
        "/plugin/introspect",
        "Say whose access token it is (RFC 7662)",
        answers_shape("The token's user and client, or that it is not active", "Introspection"),
        permission=Permission.PLUGIN,
        body=schema.form_or_json(
            {
                "type": "object",
                "properties": {"token": {"type": "string", "pattern": "^[ -~]{1,4096}$"}},
                "required": ["token"],
            },
            {"token": "tbp_example"},
        ),
    )
    async def introspect(self, request: web.Request) -> web.StreamResponse:
        """Answer whether an access token is valid, and whose it is (RFC 7662)."""
        try:
            token = required(read_parameters(await read_body(request), request.query), "token")
        except Refused as exc:
            raise InvalidRequest(exc.description) from None
        found = await self._service.introspect(request[CALLER], token, request_id=request[REQUEST_ID])
        if found is None:
            return answer({"active": False})
        # RFC 7662 2.2.
        client = self._clients.by_name.get(found.grant.client)
        body = {
            "active": True,
            "scope": found.pair.scope,
            "client_id": client.client_id if client else found.grant.client,
            "token_type": "Bearer",
            "exp": int(found.pair.access_expires_at),
            "iat": int(found.pair.created_at),
            "sub": found.grant.subject,
            "iss": self._issuer,
        }
        return answer(body)

    @Operation(
        "POST",
        "/plugin/connect-codes",
        "Make a code with which a user proves who they are",
        schema.answers_json(
            "The code; it is valid for ten minutes",
            *schema.shape(
                {
                    "connect_code": (schema.TEXT, "7Q2M-0XKA-9DTR"),
                    "expires_at": (schema.MOMENT, "2026-11-20T10:25:00Z"),
                }
            ),
            status="201",
        ),
        permission=Permission.PLUGIN,
        body=schema.json_body(
            {"subject": schema.TEXT | {"minLength": 1, "maxLength": 255, "description": "Printable"}},
            {"subject": "user-42"},
        ),
    )
    async def connect_code(self, request: web.Request) -> web.StreamResponse:
        """Make a connect code for a user."""
        body = await read_object(request)
        code, expires_at = await self._consent.connect_code(
            request[CALLER], body.get("subject", ""), request_id=request[REQUEST_ID]
        )
        return answer({"connect_code": code.reveal(), "expires_at": rfc3339(expires_at)}, status=201)


class GrantRoutes:
    """The endpoints for operators: list and end grants, on the admin socket."""

    def __init__(self, service: GrantService) -> None:
        self._service = service

    @Operation(
        "GET",
        "/plugin/grants",
        permission=Permission.PLUGIN,
        query={
            "subject": ("Only grants of this user", schema.TEXT),
            "cursor": ("`next_cursor` of the page before", schema.TEXT),
            "limit": ("How many at most", schema.LIMIT),
        },
    )
    async def grants(self, request: web.Request) -> web.StreamResponse:
        """List the grants that users gave to clients, a page at a time; `next_cursor` is null on the last one."""
        check_query(request)
        limit = query_number(request, "limit") or PAGE
        found = await self._service.grants(
            request[CALLER],
            subject=request.query.get("subject"),
            after=request.query.get("cursor", ""),
            limit=limit,
            request_id=request[REQUEST_ID],
        )
        cursor = found[-1].id if len(found) == limit else None
        return answer({"grants": [plugin_grant_json(grant) for grant in found], "next_cursor": cursor})

    @Operation("DELETE", "/plugin/grants/{grant}", permission=Permission.PLUGIN)
    async def end(self, request: web.Request) -> web.StreamResponse:
        """End a grant of a client."""
        await self._service.end(request[CALLER], request.match_info["grant"], request_id=request[REQUEST_ID])
        return web.Response(status=204)


def refused(error: Refused) -> web.Response:
    """Return an error answer of RFC 6749 5.2."""
    headers = {**NOT_STORED, **({"WWW-Authenticate": REALM} if error.status == 401 and error.basic else {})}
    if error.status == 503:
        headers["Retry-After"] = "1"
    body = {"error": error.error, "error_description": error.description}
    return answer(body, status=error.status, headers=headers)


def machine_error(error: BrokerError) -> web.Response:
    """Return the answer to any other error at a path for programs: OAuth's form, with the error's own status."""
    match error.status:
        case 503 | 429:
            return refused(Refused("temporarily_unavailable", "Try again in a moment."))
        case 500:
            return refused(Refused("server_error", "An error of ours."))
        case status:
            body = {"error": "invalid_request", "error_description": error.title}
            return answer(body, status=status, headers=NOT_STORED)
