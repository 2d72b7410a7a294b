"""Plays Kit: consent, tokens, revocation, the account, the metadata and the page of its app store."""

import json
from collections.abc import Mapping

from aiohttp import web

from broker.config.sandbox import KIT_APP_ID
from broker.sandbox.authorize import Authorize
from broker.sandbox.faults import Switches
from broker.sandbox.issued import Grant, Holder, new_token
from broker.sandbox.stage import Stage, page
from broker.sandbox.token_endpoint import (
    Answer,
    BodyError,
    Granted,
    Party,
    Refusal,
    form_pairs,
    json_answer,
    secret_fits,
)

CLIENT_REFUSED = (
    401,
    "invalid_client",
    "Client authentication failed due to unknown client, no client authentication included, or unsupported "
    "authentication method.",
)
WORDS = {
    Refusal.INVALID_CLIENT: CLIENT_REFUSED,
    Refusal.NOT_INSTALLED: CLIENT_REFUSED,
    Refusal.INVALID_GRANT: (
        400,
        "invalid_grant",
        "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used "
        "in the authorization request, or was issued to another client.",
    ),
    Refusal.UNSUPPORTED_GRANT_TYPE: (
        400,
        "unsupported_grant_type",
        "The authorization grant type is not supported by the authorization server.",
    ),
    Refusal.INVALID_REQUEST: (400, "invalid_request", "Missing required parameter: {missing}."),
}
"""Doorkeeper's."""
REVOKE_WORDS = "You are not authorized to revoke this token"
PLAN_WORDS = "Your trial is over: this account's plan does not include access to the API"
GREETING, EMAIL, ACCOUNT = "Kit Greetings", "test@kit.dev", "29"
USER_OFFSET = 100_000
"""Kit's user id is another number than the account's: who takes the wrong one is found out."""


class Kit(Party):
    """Kit under `/kit`, in both spellings of its OAuth endpoints."""

    name, title = "kit", "Kit"
    default_scope = "public"
    kit_like = True
    complaints = (
        "Authentication Failed",
        "The access token is invalid",
        "The access token was revoked",
        "The access token expired",
    )

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._authorize = Authorize(self)

    def routes(self) -> list[web.RouteDef]:
        routes = [
            web.get("/kit/v4/account", self.account),
            web.get("/kit/apps/{id}", self.app_page),
            web.get("/kit/apps/{id}/install", self.app_page),
        ]
        for base in ("/kit/oauth", "/kit/v4/oauth"):
            routes += [
                web.get(f"{base}/authorize", self._authorize.show),
                web.post(f"{base}/authorize", self._authorize.decide),
                web.post(f"{base}/token", self.answer),
                web.post(f"{base}/revoke", self.revoke),
            ]
        name = "/.well-known/oauth-authorization-server"
        return routes + [web.get(path, self.metadata) for path in (name, f"/kit{name}", f"{name}/kit")]

    async def metadata(self, request: web.Request) -> web.Response:
        """RFC 8414."""
        base = f"{request.scheme}://{request.host}/kit"
        return web.json_response(
            {
                "issuer": base,
                "authorization_endpoint": f"{base}/oauth/authorize",
                "token_endpoint": f"{base}/oauth/token",
                "revocation_endpoint": f"{base}/v4/oauth/revoke",
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code", "refresh_token"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_post", "none"],
                "scopes_supported": ["public"],
            }
        )

    async def app_page(self, request: web.Request) -> web.Response:
        """Kit's app store: Install leads through the plugin, if there is one, to the app's Authorization URL."""
        app_id = request.match_info["id"]
        app_id = app_id if app_id.isdecimal() else str(KIT_APP_ID)
        installed = request.query.get("success") == "true"
        return page("kit_app.html", app_id=app_id, link=f"/kit/apps/{app_id}/start", installed=installed)

    async def revoke(self, request: web.Request) -> web.Response:
        """RFC 7009: the whole grant goes; 200 for unknown tokens too."""
        try:
            params = self.read_params(await request.read())
        except BodyError:
            return self.garbled().response()
        client, issued = self.stage.clients.find("kit", params.get("client_id", "")), self.stage.issued
        token, secret = params.get("token", ""), params.get("client_secret")
        found = issued.refresh_token(token) or issued.access_token(token)
        grant = None if found is None else issued.grant(found.grant_id)
        if client is None or not secret_fits(client, secret, needed=bool(client.secrets)):
            return _error(403, "unauthorized_client", REVOKE_WORDS).response()
        if grant is not None and grant.provider == "kit":
            if grant.client_id != client.client_id:
                return _error(403, "unauthorized_client", REVOKE_WORDS).response()
            issued.revoke_grant(grant.id)
        return web.Response()

    async def account(self, request: web.Request) -> web.Response:
        """GET /v4/account."""
        switches = self.switches
        if switches.identity_status is not None:
            return web.Response(status=switches.identity_status)
        found = self.whose(request)
        if not isinstance(found, str) and switches.plan_lapsed:
            found = PLAN_WORDS
        if isinstance(found, str):
            return web.json_response({"errors": [found]}, status=401)
        return web.json_response(account_document(found.holder, switches))

    def read_holder(self, form: Mapping[str, str], org: str | None) -> Holder:  # noqa: ARG002 - Kustomer's
        account = form.get("account") or ACCOUNT
        if not account.isascii() or not account.isdecimal():
            raise ValueError("A Kit account id is a number.")
        return Holder(str(int(account)), form.get("name") or GREETING, form.get("email") or EMAIL)

    def objection(self, org: str | None) -> None:  # noqa: ARG002 - Kustomer's
        return None

    def read_params(self, body: bytes) -> Mapping[str, str]:
        """JSON or form, by the body's look and whatever the header says."""
        if not body.lstrip().startswith(b"{"):
            return form_pairs(body)
        try:
            document = json.loads(body)
        except ValueError as error:
            raise BodyError("not JSON") from error
        return {name: value for name, value in document.items() if isinstance(value, str)}

    def access_token(self, grant: Grant, created_at: float, expires_at: float) -> str:  # noqa: ARG002 - as Kustomer's
        return new_token("kit", "at")

    def tokens(self, granted: Granted) -> dict[str, object]:
        refresh = granted.pair.refresh
        return {
            "access_token": granted.pair.access.value,
            "token_type": "Bearer",
            "expires_in": granted.expires_in,
            **({} if refresh is None else {"refresh_token": refresh}),
            "scope": granted.grant.scope,
            "created_at": int(granted.pair.access.created_at),
        }

    def refused(self, why: Refusal, missing: str) -> Answer:
        status, error, description = WORDS[why]
        return _error(status, error, description.format(missing=missing))

    def garbled(self) -> Answer:
        return _error(400, "invalid_request", "The request is malformed.")


def account_document(holder: Holder, switches: Switches) -> dict[str, object]:
    """The body of GET /v4/account."""
    account: dict[str, object] = {
        "id": int(holder.external_id),
        "name": "" if switches.empty_account_name else holder.label,
        "plan_type": "creator",
        "primary_email_address": holder.email,
        "created_at": "2023-02-17T11:43:55Z",
        "timezone": {
            "name": "America/New_York",
            "friendly_name": "Eastern Time (US & Canada)",
            "utc_offset": "-05:00",
        },
    }
    if switches.identity_without_id:
        del account["id"]
    user = {"email": holder.email, "id": int(holder.external_id) + USER_OFFSET}
    return {"account": account} if switches.missing_user else {"user": user, "account": account}


def _error(status: int, error: str, description: str) -> Answer:
    challenge = f'Bearer realm="Kit", error="{error}", error_description="{description}"'
    return json_answer(
        status, {"error": error, "error_description": description}, {"WWW-Authenticate": challenge}
    )
