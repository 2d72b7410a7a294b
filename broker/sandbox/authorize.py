"""The pages on which a person decides: consent at a provider, and the sign-in of the company's own app."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from broker.config.sandbox import LOGIN_PRIVATE_SEED
from broker.sandbox.faults import Provider
from broker.sandbox.issued import Consent, Holder
from broker.sandbox.stage import Stage, page, refusal
from broker.sandbox.store import Client, Clients

NAMES: Mapping[Provider, str] = {"kit": "Kit", "kustomer": "Kustomer"}
WORDS = {
    "access_denied": "The resource owner or authorization server denied the request.",
    "invalid_scope": "The requested scope is invalid, unknown, or malformed.",
    "unsupported_response_type": "The authorization server does not support this response type.",
    "invalid_request": "The code challenge method must be S256.",
}
PASSED_ON = (
    "client_id",
    "response_type",
    "redirect_uri",
    "scope",
    "state",
    "tenant_name",
    "code_challenge",
    "code_challenge_method",
)
HolderReader = Callable[[Mapping[str, str], str | None], Holder]
"""Whose data the filled-in form offers; given the org of the path too. Raises ValueError with a sentence."""
Objection = Callable[[str | None], web.Response | None]
"""An answer instead of consent, where this org has not installed the app."""
ANSWER_LIFE = 120
NOBODY = "demo-user"


@dataclass(frozen=True, slots=True)
class Ask:
    """A valid authorization request."""

    client: Client
    redirect_uri: str
    state: str | None
    scope: str
    challenge: str | None
    tenant: str | None


@dataclass(frozen=True, slots=True)
class Unredirectable:
    """Wrong in a way that is shown to the person, never redirected (RFC 6749, 4.1.2.1)."""

    message: str


@dataclass(frozen=True, slots=True)
class Bounce:
    """Wrong in a way that the app is told of."""

    redirect_uri: str
    state: str | None
    error: str


class Authorize:
    """The handlers of `GET` and `POST …/oauth/authorize`."""

    def __init__(
        self,
        *,
        provider: Provider,
        stage: Stage,
        holder: HolderReader,
        default_scope: str,
        objection: Objection,
    ) -> None:
        self._provider = provider
        self._stage = stage
        self._holder = holder
        self._default_scope = default_scope
        self._objection = objection

    async def show(self, request: web.Request) -> web.StreamResponse:
        """The consent page."""
        ask = self._read(request.query)
        if not isinstance(ask, Ask):
            return self._refuse(ask)
        org = request.match_info.get("org")
        if (objection := self._objection(org)) is not None:
            return objection
        if self._stage.faults.switches(self._provider).deny:
            return self._refuse(Bounce(ask.redirect_uri, ask.state, "access_denied"))
        return page(
            f"{self._provider}_consent.html",
            app=ask.client.client_id,
            scopes=ask.scope.split(),
            target=str(URL(ask.redirect_uri).origin()),
            hidden={name: request.query[name] for name in PASSED_ON if name in request.query},
            org=org or "acme",
        )

    async def decide(self, request: web.Request) -> web.StreamResponse:
        """Allow or Deny was clicked."""
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        ask = self._read(form)
        if not isinstance(ask, Ask):
            return self._refuse(ask)
        if form.get("decision") != "allow":
            return self._refuse(Bounce(ask.redirect_uri, ask.state, "access_denied"))
        try:
            holder = self._holder(form, request.match_info.get("org"))
        except ValueError as error:
            return refusal(NAMES[self._provider], str(error))
        if (objection := self._objection(holder.org)) is not None:
            return objection
        if self._stage.faults.switches(self._provider).billing_dead_end:
            return page("billing.html")
        return self._allow(ask, holder)

    def _allow(self, ask: Ask, holder: Holder) -> web.StreamResponse:
        consent = Consent(
            self._provider,
            ask.client.client_id,
            ask.redirect_uri,
            ask.challenge,
            ask.scope,
            ask.tenant,
            holder,
        )
        code = self._stage.issued.new_code(consent, self._stage.clock.now())
        return _redirect(ask.redirect_uri, {"code": code}, ask.state)

    def _read(self, params: Mapping[str, str]) -> Ask | Unredirectable | Bounce:
        return read_ask(self._provider, self._stage.clients, params, self._default_scope)

    def _refuse(self, wrong: Unredirectable | Bounce) -> web.StreamResponse:
        match wrong:
            case Unredirectable(message):
                return refusal(NAMES[self._provider], message)
            case Bounce(redirect_uri, state, error):
                told = {"error": error, "error_description": WORDS[error]}
                return _redirect(redirect_uri, told, state)


def read_ask(
    provider: Provider, clients: Clients, params: Mapping[str, str], default_scope: str
) -> Ask | Unredirectable | Bounce:
    """Check an authorization request."""
    client = clients.find(provider, params.get("client_id", ""))
    if client is None:
        return Unredirectable("Client authentication failed due to unknown client.")
    redirect_uri = params.get("redirect_uri", "")
    if not clients.allows(client, redirect_uri):
        return Unredirectable("The requested redirect uri is malformed or doesn't match client redirect URI.")
    state = params.get("state")
    challenge = params.get("code_challenge") or None
    scope = params.get("scope") or default_scope
    if params.get("response_type") != "code":
        return Bounce(redirect_uri, state, "unsupported_response_type")
    if (challenge and params.get("code_challenge_method") != "S256") or (
        not challenge and not client.secrets
    ):
        return Bounce(redirect_uri, state, "invalid_request")
    if provider == "kit" and scope != "public":
        return Bounce(redirect_uri, state, "invalid_scope")
    return Ask(client, redirect_uri, state, scope, challenge, params.get("tenant_name"))


def _redirect(redirect_uri: str, params: Mapping[str, str], state: str | None) -> web.Response:
    query = {**params} if state is None else {**params, "state": state}
    location = str(URL(redirect_uri).update_query(query))
    return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})


class Company:
    """The sign-in under `/company/login`; anybody may be anybody."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._key = Ed25519PrivateKey.from_private_bytes(LOGIN_PRIVATE_SEED)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/company/login", self.show), web.post("/company/login", self.answer)]

    async def show(self, request: web.Request) -> web.Response:
        challenge = request.query.get("login_challenge", "")
        if not challenge:
            return refusal("Your company", "This page needs a login_challenge: start at the broker.")
        return page("login.html", challenge=challenge, who=NOBODY)

    async def answer(self, request: web.Request) -> web.Response:
        """Send the person back to the broker with a signed answer, or with a refusal."""
        form = await request.post()
        challenge = str(form.get("login_challenge", ""))
        if not challenge:
            return refusal("Your company", "This page needs a login_challenge: start at the broker.")
        if form.get("decision") == "refuse":
            told = {"login_challenge": challenge, "login_error": "access_denied"}
        else:
            signed = self._signed(str(form.get("login_as") or NOBODY), challenge)
            told = {"login_challenge": challenge, "login_response": signed}
        back = URL(f"{self._stage.broker_public_url}/login/complete").update_query(told)
        return web.Response(status=302, headers={"Location": str(back), "Cache-Control": "no-store"})

    def _signed(self, subject: str, challenge: str) -> str:
        now = int(self._stage.clock.now())
        claims = {
            "sub": subject,
            "challenge": challenge,
            "aud": self._stage.broker_public_url,
            "iat": now,
            "exp": now + ANSWER_LIFE,
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA")
