"""The pages on which a user decides: consent at a provider, and the sign-in of the company's own app."""

from collections.abc import Mapping
from dataclasses import dataclass

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from broker.config.sandbox import LOGIN_PRIVATE_SEED
from broker.sandbox.issued import Consent
from broker.sandbox.stage import Stage, page, refusal, to
from broker.sandbox.store import Client
from broker.sandbox.token_endpoint import Party

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
ANSWER_LIFE = 120
NOBODY = "demo-user"
NO_CHALLENGE = ("Your company", "This page needs a login_challenge: start at the broker.")


@dataclass(frozen=True, slots=True)
class Ask:
    """A valid authorization request."""

    client: Client
    redirect_uri: str
    state: str | None
    scope: str
    challenge: str | None
    tenant: str | None


class Authorize:
    """The handlers of `…/oauth/authorize`."""

    def __init__(self, party: Party) -> None:
        self._party, self._stage = party, party.stage

    def routes(self, base: str) -> list[web.RouteDef]:
        """Return the routes of the consent page and of the token endpoint below `base`."""
        return [
            web.get(f"{base}/oauth/authorize", self.show),
            web.post(f"{base}/oauth/authorize", self.decide),
            web.post(f"{base}/oauth/token", self._party.answer),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show the consent page."""
        ask = self._read(request.query)
        if not isinstance(ask, Ask):
            return ask
        org = request.match_info.get("org")
        if (refused := self._party.not_installed(org)) is not None:
            return refused
        if self._party.switches.deny:
            return _refused(ask.redirect_uri, ask.state, "access_denied")
        return page(
            f"{self._party.name}_consent.html",
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
        if not isinstance(ask, Ask):
            return ask
        if form.get("decision") != "allow":
            return _refused(ask.redirect_uri, ask.state, "access_denied")
        try:
            holder = self._party.read_holder(form, request.match_info.get("org"))
        except ValueError as error:
            return refusal(self._party.title, str(error))
        if (refused := self._party.not_installed(holder.org)) is not None:
            return refused
        if self._party.switches.billing_dead_end:
            return page("billing.html")
        client_id = ask.client.client_id
        consent = Consent(
            self._party.name, client_id, ask.redirect_uri, ask.challenge, ask.scope, ask.tenant, holder
        )
        code = self._stage.issued.new_code(consent, self._stage.clock.now())
        return _back(ask.redirect_uri, {"code": code}, ask.state)

    def _read(self, params: Mapping[str, str]) -> Ask | web.Response:
        """Return the request, or the answer to a wrong one. RFC 6749, 4.1.2.1 says which are never redirected."""
        party, clients = self._party, self._stage.clients
        client = clients.find(party.name, params.get("client_id", ""))
        if client is None:
            return refusal(party.title, "Client authentication failed due to unknown client.")
        redirect_uri = params.get("redirect_uri", "")
        if not clients.allows(client, redirect_uri):
            message = "The requested redirect uri is malformed or doesn't match client redirect URI."
            return refusal(party.title, message)
        state, challenge = params.get("state"), params.get("code_challenge") or None
        scope = params.get("scope") or party.default_scope
        if params.get("response_type") != "code":
            return _refused(redirect_uri, state, "unsupported_response_type")
        is_s256 = params.get("code_challenge_method") == "S256"
        if not is_s256 if challenge else not client.secrets:
            return _refused(redirect_uri, state, "invalid_request")
        if party.name == "kit" and scope != "public":
            return _refused(redirect_uri, state, "invalid_scope")
        return Ask(client, redirect_uri, state, scope, challenge, params.get("tenant_name"))


def _refused(redirect_uri: str, state: str | None, error: str) -> web.Response:
    return _back(redirect_uri, {"error": error, "error_description": WORDS[error]}, state)


def _back(redirect_uri: str, params: Mapping[str, str], state: str | None) -> web.Response:
    query = {**params} if state is None else {**params, "state": state}
    return to(str(URL(redirect_uri).update_query(query)))


class Company:
    """The sign-in page under `/company/login`, where a user may sign in under any name."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._key = Ed25519PrivateKey.from_private_bytes(LOGIN_PRIVATE_SEED)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the sign-in page."""
        return [web.get("/company/login", self.show), web.post("/company/login", self.answer)]

    async def show(self, request: web.Request) -> web.Response:
        """Show the sign-in page."""
        challenge = request.query.get("login_challenge", "")
        return page("login.html", challenge=challenge, who=NOBODY) if challenge else refusal(*NO_CHALLENGE)

    async def answer(self, request: web.Request) -> web.Response:
        """Send the user back to the broker with a signed answer or a refusal."""
        form = await request.post()
        challenge = str(form.get("login_challenge", ""))
        if not challenge:
            return refusal(*NO_CHALLENGE)
        told = {"login_challenge": challenge}
        if form.get("decision") == "refuse":
            told["login_error"] = "access_denied"
        else:
            now = int(self._stage.clock.now())
            claims = {
                "sub": str(form.get("login_as") or NOBODY),
                "challenge": challenge,
                "aud": self._stage.broker_public_url,
                "iat": now,
                "exp": now + ANSWER_LIFE,
            }
            told["login_response"] = jwt.encode(claims, self._key, algorithm="EdDSA")
        return to(str(URL(f"{self._stage.broker_public_url}/login/complete").update_query(told)))
