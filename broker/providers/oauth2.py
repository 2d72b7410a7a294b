"""Providers of RFC 6749. They differ by configuration alone; `kinds` has the defaults of Kit and Kustomer."""

import base64
import json
import re
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from contextlib import AsyncExitStack
from dataclasses import replace
from urllib.parse import quote, urlencode, urlsplit

from broker import oauth
from broker.clock import Clock
from broker.config.settings import NetworkSettings, ProviderSettings
from broker.errors import InvalidRequest
from broker.model import Secret
from broker.providers import lifetimes
from broker.providers.answers import Reading
from broker.providers.classify import classify, cleaned
from broker.providers.client import Answer, Lost, ProviderClient, Reply
from broker.providers.dead_errors import dead_errors_of
from broker.providers.kinds import differences, endpoints_of, identity_in
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
"""Most bytes of an account's id; OIDC allows 255 characters of a `sub`."""


class OAuth2Provider:
    """A provider of RFC 6749. PKCE S256 (RFC 7636) is used together with a client secret, if there is one."""

    def __init__(
        self, *, settings: ProviderSettings, http: ProviderClient, clock: Clock, timeout: float
    ) -> None:
        self.settings, self._http, self._clock, self._timeout = settings, http, clock, timeout
        self._clients = {client.client_id: client for client in (*settings.previous_clients, settings.client)}
        self._endpoints = endpoints_of(settings)
        self.name, self.client_id = settings.name, settings.client.client_id
        """The name, and the client that new installs use."""
        self.authorize_endpoint, self.token_url = self._endpoints.authorize, self._endpoints.token
        """The URLs for browsers and for token requests; both may hold `{org}`."""

    @property
    def route(self) -> str:
        """A description of the route to the provider; empty if no proxy is configured."""
        network = self.settings.network
        if network.proxy is None:
            return ""
        is_direct = proxy_for(self.token_url.replace("{org}", "org"), network) is None
        return "directly" if is_direct else f"through the proxy {network.route}"

    def knows_client(self, client_id: str) -> bool:
        """Return whether grants of that client can be renewed."""
        return client_id in self._clients

    def secrets_of(self, client_id: str) -> int:
        """Return how many secrets the client has."""
        return len(self._clients[client_id].secrets)

    def check_org(self, org: str | None) -> None:
        """Raise InvalidRequest if the provider needs an org and this one is missing or malformed."""
        for url in (self.authorize_endpoint, self.token_url):
            self._at(url, org)

    def authorize_url(
        self, *, redirect_uri: str, state: Secret, verifier: Secret, org: str | None, account: str | None
    ) -> str:
        """Return the authorization URL for the browser. Raises InvalidRequest if the org is missing or malformed."""
        parameters = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "state": state.reveal(),
            **({"scope": " ".join(self.settings.scopes)} if self.settings.scopes else {}),
            **self.settings.authorize_params,
        }
        if self.settings.type == "kit" and account:
            # Without it, connecting one Kit account twice may issue the same token, and revoking one ends both.
            parameters.setdefault("tenant_name", account)
        if self.settings.pkce:
            parameters |= {"code_challenge": oauth.challenge_of(verifier), "code_challenge_method": "S256"}
        return oauth.with_query(self._at(self.authorize_endpoint, org), parameters)

    def is_issuer(self, iss: str, org: str | None) -> bool:
        """Return whether an authorization response with this `iss` (RFC 9207) may be from the provider."""
        if self.settings.issuer is not None:
            # Simple string comparison (RFC 9207 2.4).
            return iss == self._at(self.settings.issuer, org)
        return any(_may_issue(iss, self._at(url, org)) for url in (self.authorize_endpoint, self.token_url))

    async def request_token(self, request: TokenRequest, *, before_send: BeforeSend) -> TokenOutcome:
        """Send one token request and return its outcome. Raises only what `before_send` raises."""
        settings, issued_at, timeout = self.settings, self._clock.now(), self._timeout
        if request.grant is Grant.REFRESH and settings.grace is not None:
            # A known grace time limits the wait: a later answer would be of no use (R4).
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
        """Return the account that the access token is for."""
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
        """Revoke a token (RFC 7009), which at Kit uninstalls the app. Return whether the provider confirmed it."""
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
        """Find out whether the provider answers at all, without sending a credential."""
        scheme, _, host = self.token_url.split("/", 3)[:3]
        if "{org}" in host:
            return NotSent("its address depends on the org")
        url = f"{scheme}//{host}/.well-known/oauth-authorization-server"
        reply = await self._http.get(url, headers={}, timeout=REACH_TIMEOUT, public_only=False)
        if not isinstance(reply, Answer):
            return NotSent(reply.why)
        skew = lifetimes.seconds_until_date(reply.headers.get("Date", ""), self._clock.now())
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
        """POST as `client`, the id and the index of the secret, with one method of RFC 6749 2.3.1."""
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
    """Return whether `iss` has the origin of `url`, or that of a parent domain."""
    try:
        issuer, own = urlsplit(iss), urlsplit(url)
        ports = [one.port or {"https": 443, "http": 80}.get(one.scheme) for one in (issuer, own)]
    except ValueError:
        return False
    host, own_host = issuer.hostname or "", own.hostname or ""
    is_parent = "." in host and not host[-1].isdigit() and own_host.endswith(f".{host}")
    return issuer.scheme == own.scheme and ports[0] == ports[1] and (host == own_host or is_parent)


class Providers(Mapping[str, OAuth2Provider]):
    """The configured providers by name. Services keep this mapping itself, so a reload reaches them all."""

    def __init__(
        self,
        settings: Mapping[str, ProviderSettings],
        *,
        clock: Clock,
        timeout: float,
        closing: AsyncExitStack,
    ) -> None:
        self._clock, self._timeout, self._closing = clock, timeout, closing
        self._clients: dict[str, tuple[NetworkSettings, ProviderClient]] = {}
        """One client for each provider, so that one's unreachable name server delays no other. A replaced client stays
        open for the requests under way. Settings are compared, not hashed, because a proxy is a secret."""
        self.use(settings)

    def use(self, settings: Mapping[str, ProviderSettings]) -> None:
        """Replace all providers. An HTTP client is kept if its network settings are the same."""
        by_name = {}
        for name, one in settings.items():
            network, client = self._clients.get(one.name, (None, None))
            if client is None or network != one.network:
                client = ProviderClient(network=one.network)
                self._clients[one.name] = one.network, client
                self._closing.push_async_callback(client.close)
            by_name[name] = OAuth2Provider(
                settings=one, http=client, clock=self._clock, timeout=self._timeout
            )
        self._by_name = by_name

    def __getitem__(self, name: str) -> OAuth2Provider:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def values(self) -> ValuesView[OAuth2Provider]:
        """Return the current providers; a reload does not change what is returned."""
        return self._by_name.values()

    def items(self) -> ItemsView[str, OAuth2Provider]:
        """Return the current names and providers; a reload does not change what is returned."""
        return self._by_name.items()
