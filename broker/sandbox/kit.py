"""The stand-in for Kit: consent, tokens, revocation, the account, metadata and the page of its app store."""

from collections.abc import Mapping

from aiohttp import web

from broker.config.sandbox import KIT_APP_ID
from broker.sandbox.context import page
from broker.sandbox.exchange import Refusal, secret_fits
from broker.sandbox.issued import Holder
from broker.sandbox.provider import SandboxProvider

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
    Refusal.MALFORMED: (400, "invalid_request", "The request is malformed."),
}
"""Status, error and description of each refusal; Doorkeeper's texts."""
REVOKE_WORDS = "You are not authorized to revoke this token"
PLAN_WORDS = "Your trial is over: this account's plan does not include access to the API"
GREETING, EMAIL, ACCOUNT = "Kit Greetings", "test@kit.dev", "29"
USER_OFFSET = 100_000
"""Kit's user id differs from the account's, so that code that uses the wrong one fails."""


class Kit(SandboxProvider):
    """Kit under `/kit`, with both paths of its OAuth endpoints."""

    name, title = "kit", "Kit"
    default_scope = "public"
    answer_members = ("access_token", "token_type", "expires_in", "refresh_token", "scope", "created_at")
    complaints = (
        "Authentication Failed",
        "The access token is invalid",
        "The access token was revoked",
        "The access token expired",
    )

    def routes(self) -> list[web.RouteDef]:
        """Return Kit's routes."""
        metadata = "/.well-known/oauth-authorization-server"
        return [
            web.get("/kit/v4/account", self.account),
            web.get("/kit/apps/{id}", self.app_page),
            web.get("/kit/apps/{id}/install", self.app_page),
            *self.oauth_routes("/kit"),
            *self.oauth_routes("/kit/v4"),
            web.post("/kit/oauth/revoke", self.revoke),
            web.post("/kit/v4/oauth/revoke", self.revoke),
            *(web.get(path, self.metadata) for path in (metadata, f"/kit{metadata}", f"{metadata}/kit")),
        ]

    async def metadata(self, request: web.Request) -> web.Response:
        """Answer with the server's metadata (RFC 8414)."""
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
        """Show the app in Kit's app store. Its Install button leads to `start` of the plugin client."""
        app_id = request.match_info["id"]
        app_id = app_id if app_id.isdecimal() else str(KIT_APP_ID)
        installed = request.query.get("success") == "true"
        return page("kit_app.html", app_id=app_id, link=f"/kit/apps/{app_id}/start", installed=installed)

    async def revoke(self, request: web.Request) -> web.Response:
        """Revoke the whole grant of a token (RFC 7009). Unknown tokens are answered with 200 too."""
        params = self.read_params(await request.read())
        if params is None:
            return self.refused(Refusal.MALFORMED)
        client, issued = self.context.clients.find("kit", params.get("client_id", "")), self.context.issued
        token, secret = params.get("token", ""), params.get("client_secret")
        found = issued.refresh_token(token) or issued.access_token(token)
        grant = None if found is None else issued.grant(found.grant_id)
        if client is None or not secret_fits(client, secret, needed=bool(client.secrets)):
            return _error(403, "unauthorized_client", REVOKE_WORDS)
        if grant is not None and grant.provider == "kit":
            if grant.client_id != client.client_id:
                return _error(403, "unauthorized_client", REVOKE_WORDS)
            issued.revoke_grant(grant.id)
        return web.Response()

    async def account(self, request: web.Request) -> web.Response:
        """Answer `GET /v4/account`."""
        switches = self.switches
        if switches.identity_status is not None:
            return web.Response(status=switches.identity_status)
        found = self.grant_of(request)
        if not isinstance(found, str) and switches.plan_lapsed:
            found = PLAN_WORDS
        if isinstance(found, str):
            return web.json_response({"errors": [found]}, status=401)
        holder = found.holder
        account = {
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
        return web.json_response({**({} if switches.missing_user else {"user": user}), "account": account})

    def read_holder(self, form: Mapping[str, str], org: str | None) -> Holder:  # noqa: ARG002 - Kustomer's
        """Return the account that was chosen; a Kit account's id is a number."""
        account = form.get("account") or ACCOUNT
        if not account.isascii() or not account.isdecimal():
            raise ValueError("A Kit account id is a number.")
        return Holder(str(int(account)), form.get("name") or GREETING, form.get("email") or EMAIL)

    def refused(self, why: Refusal, missing: str = "") -> web.Response:
        """Answer with Doorkeeper's text and header for the refusal."""
        status, error, description = WORDS[why]
        return _error(status, error, description.format(missing=missing))


def _error(status: int, error: str, description: str) -> web.Response:
    challenge = f'Bearer realm="Kit", error="{error}", error_description="{description}"'
    document = {"error": error, "error_description": description}
    return web.json_response(document, status=status, headers={"WWW-Authenticate": challenge})
