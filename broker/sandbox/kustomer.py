"""Plays Kustomer: consent per org, tokens that look like JWTs, and the current user."""

import json
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import assert_never

from aiohttp import web

from broker.sandbox.authorize import Authorize
from broker.sandbox.endpoint import Answer, BodyError, TokenEndpoint, form_pairs, json_answer
from broker.sandbox.exchange import Exchange, Granted, Outcome, Refusal
from broker.sandbox.faults import Switches
from broker.sandbox.issued import Grant, Holder, base64url, new_token
from broker.sandbox.registration import AppDirectory
from broker.sandbox.stage import Complaint, Stage, examine

ORG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
LIMIT, WINDOW = 1000, 60
COMPLAINTS: Mapping[Complaint, str] = {
    Complaint.MISSING: "Missing authorization",
    Complaint.INVALID: "Invalid token",
    Complaint.REVOKED: "Invalid token",
    Complaint.EXPIRED: "Expired token",
}
POD_WORDS = "Auth token associated with pod prod2 but request is being handled by prod1"


class Kustomer:
    """Kustomer under `/kustomer`; `/kustomer/{org}` stands for an org's own host."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._directory = AppDirectory(stage)
        self._window, self._seen = 0, 0
        self._authorize = Authorize(
            provider="kustomer", stage=stage, holder=read_holder, default_scope="", objection=self._objection
        )
        exchange = Exchange(
            provider="kustomer", clients=stage.clients, issued=stage.issued, maker=jwt_like, kit_like=False
        )
        self._token = TokenEndpoint(
            provider="kustomer",
            stage=stage,
            exchange=exchange,
            read=read_params,
            speak=speak,
            garbled=json_answer(400, errors("bad_request", "Bad request")),
        )

    def routes(self) -> list[web.RouteDef]:
        routes = self._directory.routes()
        for base in ("/kustomer", "/kustomer/{org}"):
            routes += [
                web.get(f"{base}/oauth/authorize", self._authorize.show),
                web.post(f"{base}/oauth/authorize", self._authorize.decide),
                web.post(f"{base}/oauth/token", self._token.__call__),
                web.get(f"{base}/v1/users/current", self.current_user),
            ]
        return routes

    async def current_user(self, request: web.Request) -> web.Response:
        """GET /v1/users/current, as JSON:API."""
        switches = self._stage.faults.switches("kustomer")
        if switches.identity_status is not None:
            document = errors("unavailable", "Not just now")
            return web.json_response(document, status=switches.identity_status)
        if switches.pod_mismatch:
            return web.json_response(errors("unauthorized", POD_WORDS), status=401)
        match found := examine(self._stage, "kustomer", request):
            case Complaint():
                return web.json_response(errors("unauthorized", COMPLAINTS[found]), status=401)
            case Grant():
                if switches.plan_lapsed:
                    return web.json_response(errors("forbidden", "Your plan has lapsed"), status=403)
                return web.json_response(user_document(found.holder, switches))

    async def limit_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """x-ratelimit-* on every answer under /kustomer; an `on_response_prepare` signal."""
        if not request.path.startswith("/kustomer"):
            return
        window = int(self._stage.clock.now()) // WINDOW
        self._seen = self._seen + 1 if window == self._window else 1
        self._window = window
        response.headers.setdefault("x-ratelimit-limit", str(LIMIT))
        response.headers.setdefault("x-ratelimit-remaining", str(max(0, LIMIT - self._seen)))
        response.headers.setdefault("x-ratelimit-reset", str((window + 1) * WINDOW))

    def _objection(self, org: str | None) -> web.Response | None:
        switches = self._stage.faults.switches("kustomer")
        if org is None or org not in switches.app_not_installed:
            return None
        answer = invalid_client(switches)
        return web.Response(
            status=400, body=answer.body.encode(), headers={"Content-Type": answer.content_type}
        )


def org_id(org: str) -> str:
    """The id of an org: 24 hexadecimal digits, always the same for a slug, and never the slug itself."""
    return sha256(b"org " + org.encode()).hexdigest()[:24]


def _user_id(org: str) -> str:
    return sha256(b"user " + org.encode()).hexdigest()[:24]


def jwt_like(grant: Grant, created_at: float, expires_at: float) -> str:
    """An access token that looks like a JWT with the org inside; its signature is merely random."""
    org = grant.holder.org or ""
    claims = {
        "id": secrets.token_hex(12),
        "user": _user_id(org),
        "org": grant.holder.external_id,
        "orgName": org,
        "pod": "prod1",
        "iat": int(created_at),
        "exp": int(expires_at),
    }
    parts = (base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return ".".join([*parts, new_token("kustomer", "at")])


def read_holder(form: Mapping[str, str], path_org: str | None) -> Holder:
    org = path_org or form.get("org") or "acme"
    if ORG.fullmatch(org) is None:
        raise ValueError("An org's name has lower-case letters, digits and hyphens only.")
    return Holder(org_id(org), form.get("name") or f"Agent of {org}", f"agent@{org}.example", org)


def user_document(holder: Holder, switches: Switches) -> dict[str, object]:
    """The body of GET /v1/users/current."""
    attributes = {
        "name": holder.label,
        "displayName": holder.label,
        "email": holder.email,
        "roles": ["org.permission.customer", "org.permission.conversation"],
    }
    data: dict[str, object] = {"type": "user", "id": _user_id(holder.org or ""), "attributes": attributes}
    if switches.identity_without_id:
        del data["id"]
        return {"data": data}
    data["relationships"] = {"org": {"data": {"type": "org", "id": holder.external_id}}}
    return {"data": data}


def read_params(body: bytes) -> Mapping[str, str]:
    if body.lstrip().startswith((b"{", b"[")):
        raise BodyError("JSON is not taken here")
    return form_pairs(body)


def errors(code: str, message: str) -> dict[str, object]:
    """The shape of Kustomer's errors."""
    return {"errors": [{"code": code, "message": message, "meta": {}}]}


def invalid_client(switches: Switches) -> Answer:
    """What the vendor calls 400 "Invalid Client"; its body is unknown, so there are three."""
    match switches.invalid_client_shape:
        case "errors":
            return json_answer(400, errors("bad_request", "Invalid Client"))
        case "oauth":
            return json_answer(400, {"error": "invalid_client", "error_description": "Invalid Client"})
        case "text":
            return Answer(400, "Invalid Client", "text/plain; charset=utf-8")


def speak(outcome: Outcome, switches: Switches) -> Answer:
    if isinstance(outcome, Granted):
        return json_answer(200, _tokens(outcome))
    match outcome.why:
        case Refusal.NOT_INSTALLED:
            return invalid_client(switches)
        case Refusal.INVALID_CLIENT:
            return _error(401, "invalid_client", "Client authentication failed")
        case Refusal.INVALID_GRANT:
            return _error(400, "invalid_grant", "The grant is invalid, expired or revoked")
        case Refusal.UNSUPPORTED_GRANT_TYPE:
            return _error(400, "unsupported_grant_type", "The grant type is not supported")
        case Refusal.INVALID_REQUEST:
            return _error(400, "invalid_request", f"Missing parameter: {outcome.missing}")
        case _:
            assert_never(outcome.why)


def _tokens(granted: Granted) -> dict[str, object]:
    document: dict[str, object] = {
        "scope": granted.grant.scope,
        "token_type": "bearer",
        "access_token": granted.pair.access.value,
        "expires_in": granted.expires_in,
    }
    return document if granted.pair.refresh is None else {**document, "refresh_token": granted.pair.refresh}


def _error(status: int, error: str, description: str) -> Answer:
    return json_answer(status, {"error": error, "error_description": description})
