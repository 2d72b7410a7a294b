"""Plays Kustomer: app registration, consent per org, tokens that look like JWTs, and the current user."""

import json
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from aiohttp import web

from broker.sandbox.authorize import Authorize
from broker.sandbox.faults import Switches
from broker.sandbox.issued import Grant, Holder, base64url, new_token
from broker.sandbox.stage import Stage, bearer
from broker.sandbox.store import Client
from broker.sandbox.token_endpoint import (
    Answer,
    BodyError,
    Granted,
    Party,
    Refusal,
    form_pairs,
    json_answer,
)

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


class AppDirectory:
    """The apps registered at Kustomer; any API key that is not empty may register one."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def routes(self) -> list[web.RouteDef]:
        available = "/kustomer/v1/apps/available"
        return [
            web.post(available, self.register),
            web.get(available, self.registered),
            # With and without the trailing slash, by name or by name-version: the vendor's pages disagree.
            web.post(f"{available}/{{app}}/secret", self.new_secret),
            web.post(f"{available}/{{app}}/secret/", self.new_secret),
        ]

    async def register(self, request: web.Request) -> web.Response:
        """A new version of an app; versions are permanent."""
        key, stage = bearer(request), self._stage
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
            } if NAME.fullmatch(app) and VERSION.fullmatch(version) and _are_texts(uris):
                pass
            case _:
                message = "app, version, title or visibility is missing or malformed"
                return _refused(400, "bad_request", message)
        # A private app belongs to the org of the API key.
        org = sha256(b"key " + key.encode()).hexdigest()[:24]
        name = f"{app}_{org}" if visibility == "private" else app
        app_id = f"{name}-{version}"
        if stage.store.row("SELECT 1 FROM apps WHERE id = ?", app_id) is not None:
            return _refused(409, "conflict", f"{app_id} exists; versions are permanent")
        older = stage.store.row(LATEST_APP, name, name)
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
        known = stage.clients.find("kustomer", client_id)
        # Until a secret is made, nobody knows one: not a public client, but one that cannot get in.
        client_secrets = known.secrets if known else (secrets.token_urlsafe(32),)
        with stage.store.transaction():
            document = json.dumps(data)
            stage.store.insert("apps", id=app_id, name=name, client_id=client_id, document=document)
            stage.clients.put(Client("kustomer", client_id, client_secrets, tuple(uris)))
        return web.json_response({"data": data})

    async def registered(self, request: web.Request) -> web.Response:
        if bearer(request) is None:
            return _refused(401, "unauthorized", "Missing authorization")
        rows = self._stage.store.rows("SELECT document FROM apps ORDER BY rowid")
        return web.json_response({"data": [json.loads(row["document"]) for row in rows]})

    async def new_secret(self, request: web.Request) -> web.Response:
        """A new secret, shown once; the one before stops working."""
        if bearer(request) is None:
            return _refused(401, "unauthorized", "Missing authorization")
        app = request.match_info["app"]
        row = self._stage.store.row(LATEST_APP, app, app)
        if row is None:
            return _refused(404, "not_found", f"There is no app {app}")
        data = json.loads(row["document"])
        secret = f"sbx-kus-secret-{secrets.token_urlsafe(32)}"
        uris = tuple(data["attributes"]["redirectUris"])
        self._stage.clients.put(Client("kustomer", row["client_id"], (secret,), uris))
        data["attributes"]["clientSecret"] = secret
        return web.json_response({"data": data})


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _refused(status: int, code: str, message: str) -> web.Response:
    return web.json_response(errors(code, message), status=status)


class Kustomer(Party):
    """Kustomer under `/kustomer`; `/kustomer/{org}` stands for an org's own host."""

    name, title = "kustomer", "Kustomer"
    default_scope = ""
    kit_like = False
    complaints = ("Missing authorization", "Invalid token", "Invalid token", "Expired token")

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._directory = AppDirectory(stage)
        self._window, self._seen = 0, 0
        self._authorize = Authorize(self)

    def routes(self) -> list[web.RouteDef]:
        routes = self._directory.routes()
        for base in ("/kustomer", "/kustomer/{org}"):
            routes += [
                web.get(f"{base}/oauth/authorize", self._authorize.show),
                web.post(f"{base}/oauth/authorize", self._authorize.decide),
                web.post(f"{base}/oauth/token", self.answer),
                web.get(f"{base}/v1/users/current", self.current_user),
            ]
        return routes

    async def current_user(self, request: web.Request) -> web.Response:
        """GET /v1/users/current, as JSON:API."""
        switches = self.switches
        if switches.identity_status is not None:
            return _refused(switches.identity_status, "unavailable", "Not just now")
        if switches.pod_mismatch:
            return _refused(401, "unauthorized", POD_WORDS)
        found = self.whose(request)
        if isinstance(found, str):
            return _refused(401, "unauthorized", found)
        if switches.plan_lapsed:
            return _refused(403, "forbidden", "Your plan has lapsed")
        return web.json_response(user_document(found.holder, switches))

    async def limit_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """x-ratelimit-* on every answer under /kustomer; an `on_response_prepare` signal."""
        if not request.path.startswith("/kustomer"):
            return
        window = int(self.stage.clock.now()) // WINDOW
        self._seen = self._seen + 1 if window == self._window else 1
        self._window = window
        response.headers.setdefault("x-ratelimit-limit", str(LIMIT))
        response.headers.setdefault("x-ratelimit-remaining", str(max(0, LIMIT - self._seen)))
        response.headers.setdefault("x-ratelimit-reset", str((window + 1) * WINDOW))

    def read_holder(self, form: Mapping[str, str], org: str | None) -> Holder:
        org = org or form.get("org") or "acme"
        if ORG.fullmatch(org) is None:
            raise ValueError("An org's name has lower-case letters, digits and hyphens only.")
        label = form.get("name") or f"Agent of {org}"
        return Holder(_id("org", org), label, f"agent@{org}.example", org)

    def objection(self, org: str | None) -> web.Response | None:
        is_missing = org in self.switches.app_not_installed
        return self.refused(Refusal.NOT_INSTALLED, "").response() if is_missing else None

    def read_params(self, body: bytes) -> Mapping[str, str]:
        if body.lstrip().startswith((b"{", b"[")):
            raise BodyError("JSON is not taken here")
        return form_pairs(body)

    def access_token(self, grant: Grant, created_at: float, expires_at: float) -> str:
        """A text that looks like a JWT with the org inside; its signature is merely random."""
        org = grant.holder.org or ""
        claims = {
            "id": secrets.token_hex(12),
            "user": _id("user", org),
            "org": grant.holder.external_id,
            "orgName": org,
            "pod": "prod1",
            "iat": int(created_at),
            "exp": int(expires_at),
        }
        parts = (base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return ".".join([*parts, new_token("kustomer", "at")])

    def tokens(self, granted: Granted) -> dict[str, object]:
        refresh = granted.pair.refresh
        return {
            "scope": granted.grant.scope,
            "token_type": "bearer",
            "access_token": granted.pair.access.value,
            "expires_in": granted.expires_in,
            **({} if refresh is None else {"refresh_token": refresh}),
        }

    def refused(self, why: Refusal, missing: str) -> Answer:
        """What the vendor calls 400 "Invalid Client" has a body that is unknown, so there are three."""
        if why is not Refusal.NOT_INSTALLED:
            status, error, description = WORDS[why]
            document = {"error": error, "error_description": description.format(missing=missing)}
            return json_answer(status, document)
        match self.switches.invalid_client_shape:
            case "errors":
                return json_answer(400, errors("bad_request", "Invalid Client"))
            case "oauth":
                document = {"error": "invalid_client", "error_description": "Invalid Client"}
                return json_answer(400, document)
            case "text":
                return Answer(400, "Invalid Client", "text/plain; charset=utf-8")

    def garbled(self) -> Answer:
        return json_answer(400, errors("bad_request", "Bad request"))


def _id(kind: str, org: str) -> str:
    """The id of an org or of its user: 24 hexadecimal digits, always the same for a slug, and never the slug itself."""
    return sha256(f"{kind} {org}".encode()).hexdigest()[:24]


def user_document(holder: Holder, switches: Switches) -> dict[str, object]:
    """The body of GET /v1/users/current."""
    attributes = {
        "name": holder.label,
        "displayName": holder.label,
        "email": holder.email,
        "roles": ["org.permission.customer", "org.permission.conversation"],
    }
    data: dict[str, object] = {"type": "user", "id": _id("user", holder.org or ""), "attributes": attributes}
    if switches.identity_without_id:
        del data["id"]
        return {"data": data}
    data["relationships"] = {"org": {"data": {"type": "org", "id": holder.external_id}}}
    return {"data": data}


def errors(code: str, message: str) -> dict[str, object]:
    """The shape of Kustomer's errors."""
    return {"errors": [{"code": code, "message": message, "meta": {}}]}
