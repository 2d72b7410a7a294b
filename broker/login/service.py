"""Sends people to the company's own app to sign in, and believes what it signs when they come back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from broker import oauth
from broker.browser import Kept, KeptRequests
from broker.clock import Clock
from broker.config.settings import LoginSettings
from broker.model import Secret
from broker.store.installs import InstallStore

PURPOSE = "login"
LIFE = 600.0
ANSWER_LIFE = 300
LEEWAY = 10
COMPACT = re.compile(r"[A-Za-z0-9_-]{1,1024}\.[A-Za-z0-9_-]{1,4096}\.[A-Za-z0-9_-]{1,1024}", re.ASCII)
FORBIDDEN_HEADERS = frozenset({"jku", "x5u", "jwk", "x5c", "crit"})


class SignInFailed(Exception):
    """The answer of the company's app is not to be believed, or too late; the person has to begin again."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who is at the browser, and what they were about to do."""

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
        self._algorithm = "EdDSA" if isinstance(key, Ed25519PublicKey) else "ES256"

    def begin(self, purpose: str, payload: str) -> tuple[str, Kept] | None:
        """Where to send the browser, and what it keeps meanwhile; None where that is too long. `payload` comes back
        with the person. Nothing is stored: nobody knows yet who this is."""
        challenge = oauth.new_secret()
        kept = self._kept.keep(PURPOSE, challenge, [purpose, payload], until=self._clock.now() + LIFE)
        if kept is None:
            return None
        return oauth.with_query(self._settings.url, {"login_challenge": challenge.reveal()}), kept

    async def complete(self, challenge: Secret, response: str | None, cookies: Mapping[str, str]) -> SignedIn:
        """Who has signed in; None as `response` means that the person did not. Raises SignInFailed."""
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
        if not COMPACT.fullmatch(response):
            raise SignInFailed("the answer of the sign-in page is malformed")
        try:
            if FORBIDDEN_HEADERS & set(jwt.get_unverified_header(response)):
                raise SignInFailed("the answer of the sign-in page is malformed")
            claims = jwt.decode(
                response,
                self._settings.key_pem,
                algorithms=[self._algorithm],
                audience=self._audience,
                # Times are compared below, by the clock that was passed in.
                options={"require": ["sub", "aud", "iat", "exp"], "verify_exp": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError):
            raise SignInFailed("the answer of the sign-in page is not signed by the company's app") from None
        self._check_times(claims.get("iat"), claims.get("exp"))
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

    def _check_times(self, issued: object, expires: object) -> None:
        now = self._clock.now()
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            raise SignInFailed("the answer of the sign-in page has no times")
        if issued > now + LEEWAY or expires < now - LEEWAY or not 0 < expires - issued <= ANSWER_LIFE:
            raise SignInFailed("the answer of the sign-in page came too late; check both clocks")
