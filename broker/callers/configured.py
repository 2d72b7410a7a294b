"""The callers of the configuration, and the verification of their JWTs."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.callers.jws import (
    LEEWAY,
    JwksCache,
    KeySet,
    VerifyingKey,
    check_claims,
    is_signed,
    load_key,
    looks_like_jwt,
    read_unverified,
)
from broker.clock import Clock
from broker.config.settings import CallerSettings, IssuedJwt, OwnJwt, PeerUid, PublicKey
from broker.errors import Unauthenticated
from broker.model import Caller, CallerKind, CallerRecord, Secret

OWN_LIFE = 300.0
ISSUED_LIFE = 24 * 3600.0
REMEMBERED = 10_000
REQUIRED = ("iss", "sub", "aud", "iat", "exp")


@dataclass(frozen=True, slots=True)
class JwtRequirements:
    """The requirements for JWTs with one pair of `iss` and `sub`, and the caller that these authenticate."""

    caller: Caller
    audience: str
    longest: float
    """The greatest number of seconds from `iat` to `exp`."""
    keys: tuple[VerifyingKey, ...] | str
    """The caller's own public keys, or the URL of an issuer's key set (JWKS)."""


class Edition:
    """The callers of one version of the configuration file."""

    def __init__(self, settings: Mapping[str, CallerSettings], audience: str) -> None:
        self.callers: dict[str, CallerRecord] = {}
        self.by_uid: dict[int, Caller] = {}
        self.by_claims: dict[tuple[str, str], JwtRequirements] = {}
        urls = set()
        for name, one in settings.items():
            caller = Caller(one.name, one.accounts, one.permissions, "jwt")
            match one.proof:
                case OwnJwt(keys):
                    kind, own = CallerKind.PUBLIC_KEY, tuple(map(_loaded, keys))
                    self.by_claims[one.name, one.name] = JwtRequirements(caller, audience, OWN_LIFE, own)
                case IssuedJwt(issuer, url, subject, aud):
                    kind, caller = CallerKind.ISSUER, replace(caller, credential=f"jwt of {issuer}")
                    required = JwtRequirements(caller, aud or audience, ISSUED_LIFE, url)
                    self.by_claims[issuer, subject] = required
                    urls.add(url)
                case PeerUid(uid):
                    kind = CallerKind.UID
                    self.by_uid[uid] = replace(caller, credential=f"uid {uid}")
                case unexpected:
                    assert_never(unexpected)
            record = CallerRecord(one.name, one.accounts, one.permissions, created_at=None, kind=kind)
            self.callers[name] = record
        self.jwks_urls = frozenset(urls)


class ConfiguredCallers:
    """The current callers of `[callers.*]`, and when each was last used."""

    def __init__(self, settings: Mapping[str, CallerSettings], *, audience: str) -> None:
        self._audience = audience
        self.edition = Edition(settings, audience)
        """Replaced by a reload; JWTs verified with an earlier edition are verified again."""
        self.uses: dict[str, float] = {}
        """Last-used timestamps by caller that are not written to the store yet."""

    def use(self, settings: Mapping[str, CallerSettings]) -> None:
        """Replace the callers after a reload of the configuration."""
        self.edition = Edition(settings, self._audience)

    def has(self, name: str) -> bool:
        """Return whether the configuration has a caller of that name."""
        return name in self.edition.callers

    def records(self, uses: Mapping[str, float]) -> list[CallerRecord]:
        """Return the callers with their last use, which `uses` has by name."""
        return [replace(one, last_used_at=uses.get(name)) for name, one in self.edition.callers.items()]


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    edition: Edition
    issuers: tuple[str, KeySet] | None
    """The URL of the issuer's key set, and the set that had the key; None for a caller's own key."""
    until: float
    """Wall time."""


class JwtAuthenticator:
    """A verifier of callers' JWTs. It caches each until it expires or its key or caller is removed."""

    def __init__(
        self, *, configured: ConfiguredCallers, jwks: JwksCache, clock: Clock, limit: int = REMEMBERED
    ) -> None:
        self._configured, self._jwks, self._clock, self._limit = configured, jwks, clock, limit
        self._remembered: dict[bytes, _Verified] = {}

    def __len__(self) -> int:
        """Return the number of cached JWTs."""
        return len(self._remembered)

    def remembered(self, credential: str) -> Caller | None:
        if not looks_like_jwt(credential):
            return None
        digest = hashlib.sha256(credential.encode()).digest()
        known = self._remembered.pop(digest, None)
        if known is None or known.edition is not self._configured.edition or self._clock.now() >= known.until:
            return None
        if known.issuers is not None and not self._jwks.is_current(*known.issuers):
            return None
        return self._used(digest, known)

    async def authenticate(self, credential: Secret) -> Caller | None:
        text = credential.reveal()
        if not looks_like_jwt(text):
            return None
        digest = hashlib.sha256(text.encode()).digest()
        return self.remembered(text) or self._used(digest, await self._verify(text))

    def _used(self, digest: bytes, known: _Verified) -> Caller:
        """Move the JWT to the end of the cache; the least recently used one is at the front."""
        self._remembered.pop(digest, None)
        while len(self._remembered) >= self._limit:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = known
        self._configured.uses[known.caller.name] = self._clock.now()
        return known.caller

    async def _verify(self, text: str) -> _Verified:
        unverified = read_unverified(text)
        algorithm, kid = unverified.algorithm, unverified.kid
        while True:
            edition = self._configured.edition
            expected = edition.by_claims.get((unverified.issuer, unverified.subject))
            if expected is None:
                raise Unauthenticated(why="unknown")
            audience, caller = expected.audience, expected.caller
            check_claims(unverified, audience=audience, longest=expected.longest, now=self._clock.now())
            if isinstance(expected.keys, str):
                found = await self._jwks.keys(expected.keys, algorithm, kid)
                if found is None:
                    raise Unauthenticated(why="issuer_unavailable")
                keys: Sequence[VerifyingKey] = found.fitting(algorithm, kid)
                issuers = expected.keys, found
            else:
                keys, issuers = [key for key in expected.keys if key.algorithm == algorithm], None
            if edition is self._configured.edition:
                break
            # The configuration was reloaded while the keys were fetched, so the requirements may have changed.
        signed = (key for key in keys if is_signed(text, key, audience=audience, required=REQUIRED))
        if (key := next(signed, None)) is None:
            raise Unauthenticated(why="signature" if keys else "unknown_key")
        if issuers is None:
            caller = replace(caller, credential=f"jwt of key {key.id}")
        return _Verified(caller, edition, issuers, unverified.expires_at + LEEWAY)


def _loaded(public: PublicKey) -> VerifyingKey:
    key = load_key(public.pem)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return VerifyingKey(public.algorithm, key, hashlib.sha256(der).hexdigest()[:12])
