"""JWTs of callers: signed with a caller's own key, or by an issuer that the configuration names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import jwt

from broker.callers.compact import UnverifiedJwt, looks_like_jwt, read_unverified
from broker.callers.configured import (
    ConfiguredCallers,
    Edition,
    Expected,
    IssuersKeys,
    OwnKeys,
    VerifyingKey,
)
from broker.callers.jwks import JwksCache, KeySet
from broker.clock import Clock
from broker.errors import Unauthenticated
from broker.model import Caller, Secret

REMEMBERED = 10_000
LEEWAY = 10.0
REQUIRED = ["iss", "sub", "aud", "iat", "exp"]


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    edition: Edition
    issuers: tuple[str, KeySet] | None
    """Where the key was published, and the set it was in."""
    until: float
    """Wall time."""


class JwtAuthenticator:
    """Believes a JWT once it is verified, until it expires or its key or caller is gone."""

    def __init__(
        self, *, configured: ConfiguredCallers, jwks: JwksCache, clock: Clock, limit: int = REMEMBERED
    ) -> None:
        self._configured, self._jwks, self._clock, self._limit = configured, jwks, clock, limit
        self._remembered: dict[bytes, _Verified] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._remembered)

    def remembered(self, credential: str) -> Caller | None:
        if not looks_like_jwt(credential):
            return None
        digest = _digest(credential)
        known = self._remembered.get(digest)
        if known is None:
            return None
        if not self._holds(known):
            del self._remembered[digest]
            return None
        return self._used(digest, known)

    async def authenticate(self, credential: Secret) -> Caller | None:
        text = credential.reveal()
        if not looks_like_jwt(text):
            return None
        return self.remembered(text) or self._used(_digest(text), await self._verify(text))

    def _used(self, digest: bytes, known: _Verified) -> Caller:
        self._remember(digest, known)
        self._configured.note_use(known.caller.name, self._clock.now())
        return known.caller

    def _holds(self, known: _Verified) -> bool:
        if known.edition is not self._configured.edition or self._clock.now() >= known.until:
            return False
        return known.issuers is None or self._jwks.is_current(*known.issuers)

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        """The last used last, so that the first is the one to forget."""
        self._remembered.pop(digest, None)
        while len(self._remembered) >= self._limit:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = verified

    async def _verify(self, text: str) -> _Verified:
        unverified = read_unverified(text)
        while True:
            edition = self._configured.edition
            expected = edition.by_claims.get((unverified.issuer, unverified.subject))
            if expected is None:
                raise Unauthenticated(why="unknown")
            check_claims(unverified, expected, now=self._clock.now())
            keys, issuers = await self._keys(unverified, expected)
            if edition is self._configured.edition:
                break
            # Reloaded while the issuer's keys were fetched: what was expected may no longer be.
        caller = _signed_by(text, keys, expected)
        return _Verified(caller, edition, issuers, unverified.expires_at + LEEWAY)

    async def _keys(
        self, unverified: UnverifiedJwt, expected: Expected
    ) -> tuple[Sequence[VerifyingKey], tuple[str, KeySet] | None]:
        match expected.keys:
            case OwnKeys(keys):
                return [key for key in keys if key.algorithm == unverified.algorithm], None
            case IssuersKeys(url):
                found = await self._jwks.keys(url, unverified.algorithm, unverified.kid)
                if found is None:
                    raise Unauthenticated(why="issuer_unavailable")
                return found.fitting(unverified.algorithm, unverified.kid), (url, found)
            case unexpected:
                assert_never(unexpected)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def check_claims(unverified: UnverifiedJwt, expected: Expected, *, now: float) -> None:
    """Audience and times, at `now` in epoch seconds; raises Unauthenticated."""
    if expected.audience not in unverified.audiences:
        raise Unauthenticated(why="audience")
    if not 0 < unverified.expires_at - unverified.issued_at <= expected.longest:
        raise Unauthenticated(why="too_long")
    if unverified.expires_at + LEEWAY <= now:
        raise Unauthenticated(why="expired")
    if max(unverified.issued_at, unverified.not_before or 0.0) - LEEWAY > now:
        raise Unauthenticated(why="too_early")


def _signed_by(text: str, keys: Sequence[VerifyingKey], expected: Expected) -> Caller:
    """The caller, if one of the keys has signed; raises Unauthenticated."""
    for key in keys:
        if _is_signed(text, key, expected.audience):
            if isinstance(expected.keys, OwnKeys):
                return replace(expected.caller, credential=f"jwt of key {key.id}")
            return expected.caller
    raise Unauthenticated(why="signature" if keys else "unknown_key")


def _is_signed(text: str, key: VerifyingKey, audience: str) -> bool:
    try:
        jwt.decode(
            text,
            key.key,
            algorithms=[key.algorithm],
            audience=audience,
            # Times were compared by the clock that was passed in; `jti` is not used here.
            options={
                "require": REQUIRED,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_jti": False,
            },
        )
    except (jwt.PyJWTError, ValueError):
        return False
    return True
