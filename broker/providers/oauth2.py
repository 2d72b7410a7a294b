"""Any RFC 6749 provider, by configuration alone; Kit and Kustomer are this with the defaults in `kinds`."""

import base64
import json
import re
from dataclasses import replace
from urllib.parse import quote, urlencode, urlsplit

from broker import oauth
from broker.clock import Clock
from broker.config.settings import ProviderSettings
from broker.errors import InvalidRequest
from broker.model import Secret
from broker.providers import lives
from broker.providers.answers import Reading
from broker.providers.classify import classify, cleaned
from broker.providers.client import Answer, Lost, ProviderClient, Reply
from broker.providers.dead_errors import dead_errors_of
from broker.providers.kinds import endpoints_of, identity_in
from broker.providers.metadata import differences
from broker.providers.network import proxy_for
from broker.providers.outcomes import (
    NO_ENDPOINT,
    BeforeSend,
    Grant,
    Granted,
    Identified,
    IdentityLater,
    IdentityOutcome,
    IdentityUnknown,
    NotSent,
    Paused,
    Reached,
    TokenOutcome,
    TokenRequest,
)

ORG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
IDENTITY_TIMEOUT = 15.0
REVOKE_TIMEOUT = 15.0
REACH_TIMEOUT = 5.0
MAX_IDENTITY = 4096
"""Bytes; OIDC allows 255 characters of a `sub`."""


class OAuth2Provider:
    """A `Provider` of RFC 6749, with PKCE S256 (RFC 7636) sent together with a secret where one is held."""

    def __init__(
        self, *, settings: ProviderSettings, http: ProviderClient, clock: Clock, timeout: float
    ) -> None:
        self.settings, self._http, self._clock, self._timeout = settings, http, clock, timeout
        self._clients = {client.client_id: client for client in (*settings.previous_clients, settings.client)}
        self._endpoints = endpoints_of(settings)
        self.name, self.client_id = settings.name, settings.client.client_id
        """`client_id`: the client that new installs use."""
        self.authorize_endpoint, self.token_url = self._endpoints.authorize, self._endpoints.token
        """Where browsers and token requests are sent; both may hold `{org}`."""

    @property
    def route(self) -> str:
        """How it is reached, in words; empty where no proxy is configured."""
        network = self.settings.network
        if network.proxy is None:
            return ""
        is_direct = proxy_for(self.token_url.replace("{org}", "org"), network) is None
        return "directly" if is_direct else f"through the proxy {network.route}"

    def knows_client(self, client_id: str) -> bool:
        """Whether grants of that client can be renewed."""
        return client_id in self._clients

    def secrets_of(self, client_id: str) -> int:
        """How many secrets that client has just now."""
        return len(self._clients[client_id].secrets)

    def check_org(self, org: str | None) -> None:
        """Raises InvalidRequest where its addresses hold an org, and this one is missing or malformed."""
        for url in (self.authorize_endpoint, self.token_url):
            self._at(url, org)

    def authorize_url(
        self, *, redirect_uri: str, state: Secret, verifier: Secret, org: str | None, account: str | None
    ) -> str:
        """Where to send the browser. Raises InvalidRequest where the org is missing or malformed."""
        parameters = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "state": state.reveal(),
            **({"scope": oauth.scope_text(self.settings.scopes)} if self.settings.scopes else {}),
            **self.settings.authorize_params,
        }
        if self.settings.type == "kit" and account:
            # Without it, connecting one Kit account twice may hand out the same token, and revoking one kills both.
            parameters.setdefault("tenant_name", account)
        if self.settings.pkce:
            parameters |= {"code_challenge": oauth.challenge_of(verifier), "code_challenge_method": "S256"}
        return oauth.with_query(self._at(self.authorize_endpoint, org), parameters)

    def is_issuer(self, iss: str, org: str | None) -> bool:
        """Whether an authorization response with this `iss` (RFC 9207) may be the provider's."""
        if self.settings.issuer is not None:
            # Simple string comparison (RFC 9207 2.4).
            return iss == self._at(self.settings.issuer, org)
        return any(_may_issue(iss, self._at(url, org)) for url in (self.authorize_endpoint, self.token_url))

    async def request_token(self, request: TokenRequest, *, before_send: BeforeSend) -> TokenOutcome:
        """POST once and say how it ended; raises only what `before_send` raises."""
        settings, issued_at, timeout = self.settings, self._clock.now(), self._timeout
        if request.grant is Grant.REFRESH and settings.grace is not None:
            # A known grace leaves less time: what comes later than that is of no use (R4).
            timeout = min(timeout, 0.6 * settings.grace)
        name = "code" if request.grant is Grant.CODE else "refresh_token"
        fields = {"grant_type": str(request.grant), name: request.token.reveal()}
        if request.redirect_uri is not None:
            fields["redirect_uri"] = request.redirect_uri
        if request.verifier is not None and settings.pkce:
            fields["code_verifier"] = request.verifier.reveal()
        reply = await self._post(
            self.token_url,
            fields,
            (request.client_id, request.secret_index),
            org=request.org,
            as_json=settings.body == "json",
            timeout=timeout,
            before_send=before_send,
        )
        reading = Reading(
            asked_scope=request.scope,
            default_life=settings.default_expires_in,
            default_is_stated=settings.default_is_stated,
            renewable=request.grant is Grant.REFRESH,
            token_pointer=settings.token_pointer or "",
            token_type=settings.token_type,
            dead_errors=dead_errors_of(self.token_url, settings.dead_errors),
        )
        outcome = classify(reply, reading=reading, issued_at=issued_at, now=self._clock.now())
        if isinstance(outcome, Granted | NotSent | Paused) or not outcome.description:
            return outcome
        # Some providers quote our own secrets in their errors.
        secrets = (request.token, request.verifier, *self._clients[request.client_id].secrets)
        hidden = [secret.reveal() for secret in secrets if secret]
        return replace(outcome, description=cleaned(outcome.description, *hidden))

    async def identify(self, access_token: Secret, *, org: str | None) -> IdentityOutcome:
        """Whose grant this is."""
        url = self._endpoints.identity
        if url is None:
            return IdentityUnknown(NO_ENDPOINT)
        if not oauth.is_usable(access_token, "Bearer"):
            return IdentityUnknown("the access token cannot be put into a header")
        reply = await self._http.get(
            self._at(url, org),
            headers={"Authorization": f"Bearer {access_token.reveal()}"},
            timeout=IDENTITY_TIMEOUT,
            public_only=_is_made_from_org(url),
        )
        at = "the identity endpoint"
        match reply:
            case Answer(status, _, body) if 200 <= status < 300 and body:
                identity = identity_in(body, self.settings)
                if identity is None:
                    return IdentityUnknown(f"{at} answered {status} without an id")
                if len(identity.external_id.encode()) > MAX_IDENTITY:
                    return IdentityUnknown(f"the provider's id is longer than {MAX_IDENTITY:,} bytes")
                return Identified(identity)
            case Answer(status) if status < 500 and status not in (408, 425, 429):
                hint = ", a redirect, which is never followed; check its URL" if 300 <= status < 400 else ""
                hint = " without content" if 200 <= status < 300 else hint
                return IdentityUnknown(f"{at} answered {status}{hint}", status)
            case Answer(status):
                return IdentityLater(f"{at} answered {status}")
            case Lost(why, arrived=True):
                return IdentityUnknown(f"{at}: {why}")
            case _:
                return IdentityLater(f"{at}: {reply.why}")

    async def revoke(self, token: Secret, *, client_id: str, org: str | None) -> bool:
        """RFC 7009; whether the provider confirmed. At Kit this uninstalls the app. False where there is none."""
        if self._endpoints.revoke is None or client_id not in self._clients:
            return False
        reply = await self._post(
            self._endpoints.revoke,
            {"token": token.reveal()},
            (client_id, 0),
            org=org,
            as_json=False,
            timeout=REVOKE_TIMEOUT,
        )
        return isinstance(reply, Answer | Lost) and reply.status is not None and 200 <= reply.status < 300

    async def reach(self) -> Reached | NotSent:
        """Whether the provider answers at all; sends no credential."""
        scheme, _, host = self.token_url.split("/", 3)[:3]
        if "{org}" in host:
            return NotSent("its address depends on the org")
        url = f"{scheme}//{host}/.well-known/oauth-authorization-server"
        reply = await self._http.get(url, headers={}, timeout=REACH_TIMEOUT, public_only=False)
        if not isinstance(reply, Answer):
            return NotSent(reply.why)
        skew = lives.seconds_until_date(reply.headers.get("Date", ""), self._clock.now())
        if reply.status != 200:
            return Reached(skew)
        return Reached(skew, differences(reply.body, self.settings))

    async def _post(
        self,
        url: str,
        fields: dict[str, str],
        client: tuple[str, int],
        *,
        org: str | None,
        as_json: bool,
        timeout: float,
        before_send: BeforeSend | None = None,
    ) -> Reply:
        """POST as a client, with its id and which of its secrets: one method of RFC 6749 2.3.1 at a time."""
        client_id, secrets = client[0], self._clients[client[0]].secrets
        secret = secrets[client[1]].reveal() if secrets else None
        method = self.settings.client_auth
        headers = {"Content-Type": "application/json" if as_json else "application/x-www-form-urlencoded"}
        if secret is not None and method in ("basic", "basic-raw"):
            pair = f"{client_id}:{secret}"
            if method == "basic":
                pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            fields = {**fields, "client_id": client_id}
            if secret is not None and method == "post":
                fields["client_secret"] = secret
        return await self._http.post(
            self._at(url, org),
            data=(json.dumps(fields) if as_json else urlencode(fields)).encode(),
            headers=headers,
            timeout=timeout,
            before_send=before_send,
            public_only=_is_made_from_org(url),
        )

    def _at(self, url: str, org: str | None) -> str:
        if "{org}" not in url:
            return url
        if org is None:
            raise InvalidRequest(f"{self.name} needs to know the organisation; say which (org)")
        if not ORG.fullmatch(org):
            raise InvalidRequest("an org is a host label: lower-case letters, digits and hyphens")
        return url.replace("{org}", org)


def _is_made_from_org(url: str) -> bool:
    return "{org}" in url.split("/", 3)[2]


def _may_issue(iss: str, url: str) -> bool:
    """Whether `iss` is at the origin of `url`, or at a domain that it lies in."""
    try:
        issuer, own = urlsplit(iss), urlsplit(url)
        ports = [one.port or {"https": 443, "http": 80}.get(one.scheme) for one in (issuer, own)]
    except ValueError:
        return False
    host, own_host = issuer.hostname or "", own.hostname or ""
    is_parent = "." in host and not host[-1].isdigit() and own_host.endswith(f".{host}")
    return issuer.scheme == own.scheme and ports[0] == ports[1] and (host == own_host or is_parent)
