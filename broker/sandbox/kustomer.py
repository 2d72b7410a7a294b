"""The stand-in for Kustomer: app registration, consent per org, tokens that look like JWTs, the current user."""

import json
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from aiohttp import web

from broker.sandbox.context import SandboxContext, bearer
from broker.sandbox.exchange import Refusal
from broker.sandbox.issued import Holder, kustomer_id
from broker.sandbox.provider import SandboxProvider
from broker.sandbox.store import Client

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
LATEST_APP = "SELECT * FROM apps WHERE id = ? OR name = ? ORDER BY rowid DESC LIMIT 1"
ORG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
LIMIT, WINDOW = 1000, 60
WORDS = {
    Refusal.INVALID_CLIENT: (401, "invalid_client", "Client authentication failed"),
    Refusal.INVALID_GRANT: (400, "invalid_grant", "The grant is invalid, expired or revoked"),
    Refusal.UNSUPPORTED_GRANT_TYPE: (400, "unsupported_grant_type", "The grant type is not supported"),
    Refusal.INVALID_REQUEST: (400, "invalid_request", "Missing parameter: {missing}"),
}
POD_WORDS = "Auth token associated with pod prod2 but request is being handled by prod1"


class Kustomer(SandboxProvider):
    """Kustomer under `/kustomer`; `/kustomer/{org}` is the host of one org."""

    name, title = "kustomer", "Kustomer"
    default_scope = ""
    answer_members = ("scope", "token_type", "access_token", "expires_in", "refresh_token")
    complaints = ("Missing authorization", "Invalid token", "Invalid token", "Expired token")

    def __init__(self, context: SandboxContext) -> None:
        super().__init__(context)
        self._window, self._seen = 0, 0

    def routes(self) -> list[web.RouteDef]:
        """Return Kustomer's routes."""
        available = "/kustomer/v1/apps/available"
        return [
            web.post(available, self.register),
            web.get(available, self.registered),
            # With and without the trailing slash, by name or by name-version: the vendor's pages disagree.
            web.post(f"{available}/{{app}}/secret", self.new_secret),
            web.post(f"{available}/{{app}}/secret/", self.new_secret),
            *self.oauth_routes("/kustomer"),
            *self.oauth_routes("/kustomer/{org}"),
            web.get("/kustomer/v1/users/current", self.current_user),
            web.get("/kustomer/{org}/v1/users/current", self.current_user),
        ]

    async def register(self, request: web.Request) -> web.Response:
        """Register a new version of an app; any API key will do. Versions are permanent."""
        key, context = bearer(request), self.context
        if key is None:
            return _refused(401, "unauthorized", "Missing authorization")
        try:
            asked = json.loads(await request.read())
        except ValueError:
            asked = None
        uris: Any = asked.get("redirectUris", []) if isinstance(asked, dict) else None
        match asked:
            case {
                "app": str(app),
                "version": str(version),
                "title": str(title),
                "visibility": "private" | "public" as visibility,
            } if NAME.fullmatch(app) and VERSION.fullmatch(version) and _is_texts(uris):
                pass
            case _:
                message = "app, version, title or visibility is missing or malformed"
                return _refused(400, "bad_request", message)
        # A private app belongs to the org of the API key.
        org = sha256(b"key " + key.encode()).hexdigest()[:24]
        name = f"{app}_{org}" if visibility == "private" else app
        app_id = f"{name}-{version}"
        if context.store.row("SELECT 1 FROM apps WHERE id = ?", app_id) is not None:
            return _refused(409, "conflict", f"{app_id} exists; versions are permanent")
        older = context.store.row(LATEST_APP, name, name)
        client_id = secrets.token_hex(12) if older is None else older["client_id"]
        attributes = {
            "name": name,
            "auth": {},
            "title": title,
            "version": version,
            "visibility": visibility,
            "redirectUris": uris,
            "clientId": client_id,
        }
        data = {"type": "available_app", "id": app_id, "attributes": attributes}
        known = context.clients.find("kustomer", client_id)
        # Until a secret is made, nobody knows one: not a public client, but one that cannot get in.
        client_secrets = known.secrets if known else (secrets.token_urlsafe(32),)
        with context.store.transaction():
            document = json.dumps(data)
            context.store.insert("apps", id=app_id, name=name, client_id=client_id, document=document)
            context.clients.put(Client("kustomer", client_id, client_secrets, tuple(uris)))
        return web.json_response({"data": data})

    async def registered(self, request: web.Request) -> web.Response:
        """List the registered apps."""
        if bearer(request) is None:
            return _refused(401, "unauthorized", "Missing authorization")
        rows = self.context.store.rows("SELECT document FROM apps ORDER BY rowid")
        return web.json_response({"data": [json.loads(row["document"]) for row in rows]})

    async def new_secret(self, request: web.Request) -> web.Response:
        """Make a new secret for an app and show it once. The previous secret stops working."""
        if bearer(request) is None:
            return _refused(401, "unauthorized", "Missing authorization")
        app = request.match_info["app"]
        row = self.context.store.row(LATEST_APP, app, app)
        if row is None:
            return _refused(404, "not_found", f"There is no app {app}")
        data = json.loads(row["document"])
        secret = f"sbx-kus-secret-{secrets.token_urlsafe(32)}"
        uris = tuple(data["attributes"]["redirectUris"])
        self.context.clients.put(Client("kustomer", row["client_id"], (secret,), uris))
        data["attributes"]["clientSecret"] = secret
        return web.json_response({"data": data})

    async def current_user(self, request: web.Request) -> web.Response:
        """Answer `GET /v1/users/current` in the form of JSON:API."""
        switches = self.switches
        if switches.identity_status is not None:
            return _refused(switches.identity_status, "unavailable", "Not just now")
        if switches.pod_mismatch:
            return _refused(401, "unauthorized", POD_WORDS)
        found = self.grant_of(request)
        if isinstance(found, str):
            return _refused(401, "unauthorized", found)
        if switches.plan_lapsed:
            return _refused(403, "forbidden", "Your plan has lapsed")
        holder = found.holder
        data: dict[str, object] = {
            "type": "user",
            "id": kustomer_id("user", holder.org or ""),
            "attributes": {
                "name": holder.label,
                "displayName": holder.label,
                "email": holder.email,
                "roles": ["org.permission.customer", "org.permission.conversation"],
            },
            "relationships": {"org": {"data": {"type": "org", "id": holder.external_id}}},
        }
        if switches.identity_without_id:
            del data["id"], data["relationships"]
        return web.json_response({"data": data})

    async def limit_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add x-ratelimit-* to every answer under /kustomer; a handler of aiohttp's `on_response_prepare`."""
        if not request.path.startswith("/kustomer"):
            return
        window = int(self.context.clock.now()) // WINDOW
        self._seen = self._seen + 1 if window == self._window else 1
        self._window = window
        response.headers.setdefault("x-ratelimit-limit", str(LIMIT))
        response.headers.setdefault("x-ratelimit-remaining", str(max(0, LIMIT - self._seen)))
        response.headers.setdefault("x-ratelimit-reset", str((window + 1) * WINDOW))

    def read_holder(self, form: Mapping[str, str], org: str | None) -> Holder:
        """Return the account of an org; its id is derived from the org's slug."""
        org = org or form.get("org") or "acme"
        if ORG.fullmatch(org) is None:
            raise ValueError("An org's name has lower-case letters, digits and hyphens only.")
        label = form.get("name") or f"Agent of {org}"
        return Holder(kustomer_id("org", org), label, f"agent@{org}.example", org)

    def refused(self, why: Refusal, missing: str = "") -> web.Response:
        """Answer with Kustomer's error; `invalid_client_shape` selects the form of NOT_INSTALLED."""
        if why is Refusal.MALFORMED:
            return _refused(400, "bad_request", "Bad request")
        if why is not Refusal.NOT_INSTALLED:
            status, error, description = WORDS[why]
            document = {"error": error, "error_description": description.format(missing=missing)}
            return web.json_response(document, status=status)
        # The vendor calls it 400 "Invalid Client" and does not document the body, so there are three.
        match self.switches.invalid_client_shape:
            case "errors":
                return _refused(400, "bad_request", "Invalid Client")
            case "oauth":
                document = {"error": "invalid_client", "error_description": "Invalid Client"}
                return web.json_response(document, status=400)
            case "text":
                return web.Response(status=400, text="Invalid Client")


def _refused(status: int, code: str, message: str) -> web.Response:
    """Answer with an error in Kustomer's form."""
    return web.json_response({"errors": [{"code": code, "message": message, "meta": {}}]}, status=status)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
