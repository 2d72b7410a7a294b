"""Signing in at the company's own app: the broker sends the browser there, and verifies the signed answer."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from broker import oauth
from broker.callers.jws import VerifyingKey, is_signed, unverified_members
from broker.clock import Clock
from broker.config.settings import LoginSettings
from broker.errors import StorageUnavailable
from broker.http.browser import Kept, KeptRequests
from broker.http.edge import REQUEST_ID
from broker.http.operations import TEXT, WRONG, own_shape, redirect
from broker.http.pages import Page, Pages
from broker.model import Secret
from broker.store.installs import InstallStore
from broker.store.plugin import PluginStore

log = structlog.get_logger()
PURPOSE = "login"
LIFE = 600.0
ANSWER_LIFE = 300
LEEWAY = 10
REQUIRED = ("sub", "aud", "iat", "exp")
PARAMETERS = frozenset({"login_challenge", "login_response", "login_error"})


class SignInFailed(Exception):
    """The answer of the company's app cannot be trusted, or is too late; the user has to begin again."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The user at the browser, and the request that the sign-in interrupted."""

    subject: str
    purpose: str
    payload: str


class LoginService:
    """The `[login]` hand-off: a challenge that is good once, for ten minutes, in one browser."""

    def __init__(
        self,
        *,
        settings: LoginSettings,
        store: InstallStore,
        kept: KeptRequests,
        clock: Clock,
        audience: str,
    ) -> None:
        self._settings, self._store, self._kept = settings, store, kept
        self._clock, self._audience = clock, audience
        key = load_pem_public_key(settings.key_pem.encode())
        if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
            raise TypeError("the configuration lets no other key through")
        self._key = VerifyingKey("EdDSA" if isinstance(key, Ed25519PublicKey) else "ES256", key, None)

    def begin(self, purpose: str, payload: str) -> tuple[str, Kept] | None:
        """Return where to send the browser, and what it keeps meanwhile; None where that is too long.

        `payload` comes back with the user. Nothing is stored, because the user is not known yet.
        """
        challenge = oauth.new_secret()
        kept = self._kept.keep(PURPOSE, challenge, [purpose, payload], until=self._clock.now() + LIFE)
        if kept is None:
            return None
        return oauth.with_query(self._settings.url, {"login_challenge": challenge.reveal()}), kept

    async def complete(self, challenge: Secret, response: str | None, cookies: Mapping[str, str]) -> SignedIn:
        """Return who has signed in; None as `response` means that the user did not. Raises SignInFailed."""
        subject = self._subject_of(response, challenge) if response is not None else None
        kept = await self._kept.find(PURPOSE, challenge, cookies)
        if kept is None:
            raise SignInFailed("this sign-in began in another browser, or more than ten minutes ago")
        until, purpose, payload = kept
        if subject is None:
            raise SignInFailed("you did not sign in")
        if not await self._store.claim(oauth.hashed(challenge), until):
            raise SignInFailed("this sign-in was used already")
        return SignedIn(subject, purpose, payload)

    def _subject_of(self, response: str, challenge: Secret) -> str:
        try:
            _, claims = unverified_members(response)
        except ValueError:
            raise SignInFailed("the answer of the sign-in page is malformed") from None
        if not is_signed(response, self._key, audience=self._audience, required=REQUIRED):
            raise SignInFailed("the answer of the sign-in page is not signed by the company's app")
        now, issued, expires = self._clock.now(), claims["iat"], claims["exp"]
        not_before = claims.get("nbf", 0)
        if not all(isinstance(at, int | float) for at in (issued, expires, not_before)):
            raise SignInFailed("the answer of the sign-in page has no times")
        early, late = max(issued, not_before) > now + LEEWAY, expires < now - LEEWAY
        if early or late or not 0 < expires - issued <= ANSWER_LIFE:
            raise SignInFailed("the answer of the sign-in page came too late; check both clocks")
        if not isinstance(claims.get("challenge"), str) or Secret(claims["challenge"]) != challenge:
            raise SignInFailed("the answer of the sign-in page belongs to another sign-in")
        subject = claims["sub"]
        if (
            not isinstance(subject, str)
            or not subject.strip()
            or len(subject) > 255
            or not subject.isprintable()
        ):
            raise SignInFailed("the answer of the sign-in page does not say who signed in")
        return subject


Continue = Callable[[web.Request, SignedIn], Awaitable[web.StreamResponse]]
"""Continues a request once the user has signed in."""


class LoginRoutes:
    """`GET /login/complete`, where the company's app sends the browser back."""

    def __init__(self, *, service: LoginService, pages: Pages, purposes: Mapping[str, Continue]) -> None:
        self._service, self._pages, self._purposes = service, pages, purposes

    @own_shape(
        "GET",
        "/login/complete",
        "Where the company's app sends the person back",
        {
            **redirect("On to the provider", "302"),
            **redirect("Back to where the person came from"),
            **WRONG,
        },
        query={
            "login_challenge": ("As it was given", TEXT),
            "login_response": ("A JWT that says who it is", TEXT),
            "login_error": ("The person said no", TEXT),
        },
        has_head=False,
    )
    async def complete(self, request: web.Request) -> web.StreamResponse:
        try:
            parameters = oauth.known_parameters(request.rel_url.raw_query_string, PARAMETERS)
            challenge = Secret(parameters.get("login_challenge", ""))
            refused = "login_error" in parameters
            response = None if refused else parameters.get("login_response", "")
            signed_in = await self._service.complete(challenge, response, request.cookies)
        except (SignInFailed, ValueError) as exc:
            why = str(exc) if isinstance(exc, SignInFailed) else "a parameter is repeated"
            page = Page(
                title="You are not signed in",
                tone="bad",
                lines=(f"Nothing was connected: {why}.",),
                hint="Go back to where you came from and begin again.",
                status=400,
            )
            return self._pages.message(page, request_id=request[REQUEST_ID])
        return await self._purposes[signed_in.purpose](request, signed_in)


class RememberedUsers:
    """Users who allowed a client access minutes ago. The next install does not ask them to sign in again."""

    def __init__(self, *, store: PluginStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def take(self, person: Secret | None) -> str | None:
        """Return the user, once; None if nobody is remembered, or it was too long ago."""
        if person is None:
            return None
        return await self._store.take_person(oauth.hashed(person), self._clock.now())

    async def connected(self, browser_hash: str, subject: str | None, account: str | None) -> None:
        """Note that the install of the user who was taken in this browser has connected an account."""
        if subject is None or account is None:
            return
        try:
            await self._store.join_account(browser_hash, subject, account, self._clock.now())
        except StorageUnavailable:
            # The account is connected, and that counts.
            log.warning("install.halves_not_joined", account=account)
