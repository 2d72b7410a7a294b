"""A provider that the sandbox plays, over HTTP: its consent page, its token endpoint and its access tokens."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import parse_qsl

from aiohttp import web
from yarl import URL

from broker.sandbox.context import SandboxContext, bearer, page, refusal, to
from broker.sandbox.exchange import Exchange, Refusal, Refused
from broker.sandbox.faults import AnswerFault, Mode, Provider, Switches
from broker.sandbox.issued import Consent, Grant, Holder, fingerprint
from broker.sandbox.store import Client

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
WORDS = {
    "access_denied": "The resource owner or authorization server denied the request.",
    "invalid_scope": "The requested scope is invalid, unknown, or malformed.",
    "unsupported_response_type": "The authorization server does not support this response type.",
    "invalid_request": "The code challenge method must be S256.",
}
PASSED_ON = (
    *("client_id", "response_type", "redirect_uri", "scope", "state", "tenant_name"),
    *("code_challenge", "code_challenge_method"),
)


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A valid authorization request."""

    client: Client
    redirect_uri: str
    state: str | None
    scope: str
    challenge: str | None
    tenant: str | None


class SandboxProvider(ABC):
    """A provider that the sandbox plays. The subclasses hold what differs between Kit and Kustomer."""

    name: ClassVar[Provider]
    title: ClassVar[str]
    default_scope: ClassVar[str]
    answer_members: ClassVar[tuple[str, ...]]
    """The members of an answer with tokens, in the vendor's order."""
    complaints: ClassVar[tuple[str, str, str, str]]
    """The error texts for an access token that is missing, invalid, revoked or expired."""

    def __init__(self, context: SandboxContext) -> None:
        self.context = context

    @property
    def switches(self) -> Switches:
        """The provider's current switches."""
        return self.context.faults.switches(self.name)

    @abstractmethod
    def read_holder(self, form: Mapping[str, str], org: str | None) -> Holder:
        """Return the account chosen on the consent page; `org` is from the path. Raises ValueError with a sentence."""

    @abstractmethod
    def refused(self, why: Refusal, missing: str = "") -> web.Response:
        """Answer with a refusal in the provider's words."""

    def not_installed(self, org: str | None) -> web.Response | None:
        """Return the answer that replaces the consent page where this org has not installed the app."""
        return self.refused(Refusal.NOT_INSTALLED) if org in self.switches.app_not_installed else None

    def read_params(self, body: bytes) -> Mapping[str, str] | None:
        """Return the parameters of a form or, at Kit, of JSON, whatever the header says. None: it is malformed."""
        start = body.lstrip()[:1]
        if start in (b"{", b"[") and self.name != "kit":
            return None
        try:
            if start == b"{":
                return {name: value for name, value in json.loads(body).items() if isinstance(value, str)}
            pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
        except ValueError:
            return None
        # A parameter must not be repeated (RFC 6749, 3.2).
        return dict(pairs) if len(dict(pairs)) == len(pairs) else None

    def oauth_routes(self, base: str) -> list[web.RouteDef]:
        """Return the routes of the consent page and of the token endpoint below `base`."""
        return [
            web.get(f"{base}/oauth/authorize", self.show),
            web.post(f"{base}/oauth/authorize", self.decide),
            web.post(f"{base}/oauth/token", self.answer),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show the consent page."""
        ask = self._read(request.query)
        if not isinstance(ask, AuthorizationRequest):
            return ask
        org = request.match_info.get("org")
        if (refused := self.not_installed(org)) is not None:
            return refused
        if self.switches.deny:
            return _refused(ask.redirect_uri, ask.state, "access_denied")
        return page(
            f"{self.name}_consent.html",
            app=ask.client.client_id,
            scopes=ask.scope.split(),
            target=str(URL(ask.redirect_uri).origin()),
            hidden={name: request.query[name] for name in PASSED_ON if name in request.query},
            org=org or "acme",
        )

    async def decide(self, request: web.Request) -> web.StreamResponse:
        """Handle a click on Allow or Deny."""
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        ask = self._read(form)
        if not isinstance(ask, AuthorizationRequest):
            return ask
        if form.get("decision") != "allow":
            return _refused(ask.redirect_uri, ask.state, "access_denied")
        try:
            holder = self.read_holder(form, request.match_info.get("org"))
        except ValueError as error:
            return refusal(self.title, str(error))
        if (refused := self.not_installed(holder.org)) is not None:
            return refused
        if self.switches.billing_dead_end:
            return page("billing.html")
        client_id = ask.client.client_id
        consent = Consent(
            self.name, client_id, ask.redirect_uri, ask.challenge, ask.scope, ask.tenant, holder
        )
        code = self.context.issued.new_code(consent, self.context.clock.now())
        return _back(ask.redirect_uri, {"code": code}, ask.state)

    def _read(self, params: Mapping[str, str]) -> AuthorizationRequest | web.Response:
        """Return the request, or the answer to a wrong one. RFC 6749, 4.1.2.1 says which are never redirected."""
        clients = self.context.clients
        client = clients.find(self.name, params.get("client_id", ""))
        if client is None:
            return refusal(self.title, "Client authentication failed due to unknown client.")
        redirect_uri = params.get("redirect_uri", "")
        if not clients.allows(client, redirect_uri):
            message = "The requested redirect uri is malformed or doesn't match client redirect URI."
            return refusal(self.title, message)
        state, challenge = params.get("state"), params.get("code_challenge") or None
        scope = params.get("scope") or self.default_scope
        if params.get("response_type") != "code":
            return _refused(redirect_uri, state, "unsupported_response_type")
        is_s256 = params.get("code_challenge_method") == "S256"
        if not is_s256 if challenge else not client.secrets:
            return _refused(redirect_uri, state, "invalid_request")
        if self.name == "kit" and scope != "public":
            return _refused(redirect_uri, state, "invalid_scope")
        return AuthorizationRequest(client, redirect_uri, state, scope, challenge, params.get("tenant_name"))

    def grant_of(self, request: web.Request) -> Grant | str:
        """Return the grant of the request's access token, or an error text. The access token is recorded as used."""
        issued, presented = self.context.issued, bearer(request)
        missing, invalid, revoked, expired = self.complaints
        token = issued.access_token(presented) if presented else None
        if token is None:
            return invalid if presented else missing
        grant, complaint = issued.grant(token.grant_id), ""
        if grant.provider != self.name:
            complaint = invalid
        elif token.revoked:
            complaint = revoked
        elif self.context.clock.now() >= token.expires_at:
            complaint = expired
        with self.context.store.transaction():
            self.context.record.used(self.name, token.sha256, 401 if complaint else 200)
            if not complaint and token.parent is not None and self.switches.rotation is Mode.ON_USE:
                # Mode D: a token's predecessors are revoked at its first use at a resource (Doorkeeper).
                issued.revoke_refresh(token.parent, and_access=True)
        return complaint or grant

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Handle `POST …/oauth/token`, with the fault that is set for it."""
        context, clock = self.context, self.context.clock
        fault = context.faults.take(self.name)
        params = self.read_params(await request.read())
        is_refresh = params is not None and params.get("grant_type") == "refresh_token"
        token = params and params.get("refresh_token" if is_refresh else "code")
        kind = "refresh" if is_refresh else "code"
        n = context.record.begin(self.name, kind, fingerprint(token) if token else None)
        try:
            if fault.latency:
                await clock.sleep(fault.latency)
            response = self._settle(n, params, fault, request.match_info.get("org"))
            if fault.latency_after:
                await clock.sleep(fault.latency_after)
            context.record.end(n)
            if fault.drop is not None:
                return hang_up(request, web.Response())
            if fault.replaces_answer:
                kind = "text/html" if fault.raw is None else "application/json"
                headers = {**NO_STORE, "Content-Type": f"{kind}; charset=utf-8", **fault.headers}
                text = (fault.body or "") if fault.raw is None else fault.raw
                return web.Response(status=fault.status or 200, body=text.encode(), headers=headers)
            response.headers.update(NO_STORE)
            if fault.truncate is not None:
                body = (response.text or "").encode()
                part = web.StreamResponse(status=response.status, headers=response.headers)
                part.content_length = len(body)
                await part.prepare(request)
                await part.write(body[: fault.truncate])
                return hang_up(request, part)
            with suppress(ConnectionResetError):
                await response.prepare(request)
                await response.write_eof()
            if request.transport is not None and not request.transport.is_closing():
                context.record.answered(n)
            return response
        finally:
            context.record.end(n)

    def _settle(
        self, n: int, params: Mapping[str, str] | None, fault: AnswerFault, org: str | None
    ) -> web.Response:
        """Handle the request and record it in one transaction. Return the true answer, whatever is sent then."""
        record, now = self.context.record, self.context.clock.now()
        if fault.spares_token or params is None:
            record.handled(n, "fault" if fault.spares_token else "invalid_request")
            return self.refused(Refusal.MALFORMED)
        with self.context.store.transaction():
            issued, clients = self.context.issued, self.context.clients
            match Exchange(self.name, params, self.switches, clients, issued, now, org).outcome():
                case Refused(why, missing, grant_id):
                    record.handled(n, why, grant_id=grant_id)
                    return self.refused(why, missing)
                case grant, pair:
                    refresh = fingerprint(pair.refresh) if pair.refresh else None
                    record.handled(n, "issued", grant.id, refresh, pair.access.sha256)
                    values: dict[str, object] = {
                        "access_token": pair.access.value,
                        "token_type": "Bearer" if self.name == "kit" else "bearer",
                        "expires_in": max(0, int(pair.access.expires_at - now)),
                        "refresh_token": pair.refresh,
                        "scope": grant.scope,
                        "created_at": int(pair.access.created_at),
                    }
                    members = {**{name: values[name] for name in self.answer_members}, **fault.members}
                    return web.json_response({name: one for name, one in members.items() if one is not None})


def _refused(redirect_uri: str, state: str | None, error: str) -> web.Response:
    return _back(redirect_uri, {"error": error, "error_description": WORDS[error]}, state)


def _back(redirect_uri: str, params: Mapping[str, str], state: str | None) -> web.Response:
    query = {**params} if state is None else {**params, "state": state}
    return to(str(URL(redirect_uri).update_query(query)))


def hang_up(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection after what has been written; the response is for aiohttp's bookkeeping only."""
    if request.transport is not None:
        request.transport.close()
    return response
