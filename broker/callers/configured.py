"""The callers that the configuration names, and the JWTs and uids that prove them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from broker.callers.jwks import JwksCache, KeySet
from broker.callers.jws import UnverifiedJwt, VerifyingKey, is_signed, looks_like_jwt, read_unverified
from broker.clock import Clock
from broker.config.settings import CallerSettings, IssuedJwt, OwnJwt, PeerUid, PublicKey
from broker.errors import Unauthenticated
from broker.model import Caller, CallerKind, CallerRecord, Secret

OWN_LIFE = 300.0
ISSUED_LIFE = 24 * 3600.0
REMEMBERED = 10_000
LEEWAY = 10.0
REQUIRED = ("iss", "sub", "aud", "iat", "exp")


@dataclass(frozen=True, slots=True)
class JwtRequirements:
    """The requirements for JWTs of one `iss` and `sub`, and the caller that they prove."""

    caller: Caller
    audience: str
    longest: float
    """Seconds from `iat` to `exp`, at most."""
    keys: tuple[VerifyingKey, ...] | str
    """Keys that the configuration holds, or the address where an issuer publishes its keys."""


@dataclass(frozen=True, slots=True)
class Edition:
    """The callers of one reading of the file."""

    callers: Mapping[str, CallerRecord]
    by_uid: Mapping[int, Caller]
    by_claims: Mapping[tuple[str, str], JwtRequirements]
    jwks_urls: frozenset[str]


class ConfiguredCallers:
    """The callers of `[callers.*]` at present, and when each was last used."""

    def __init__(self, settings: Mapping[str, CallerSettings], *, audience: str) -> None:
        self._audience = audience
        self.edition = _edition(settings, audience)
        """A JWT that was verified against an earlier edition has to be verified again."""
        self.uses: dict[str, float] = {}
        """When callers were last used, as far as it is not stored yet."""

    def use(self, settings: Mapping[str, CallerSettings]) -> None:
        """Go on with other callers: the configuration was reloaded."""
        self.edition = _edition(settings, self._audience)

    def has(self, name: str) -> bool:
        return name in self.edition.callers

    def records(self, uses: Mapping[str, float]) -> list[CallerRecord]:
        """The callers as they are shown; `uses` says when each was last used."""
        return [replace(one, last_used_at=uses.get(name)) for name, one in self.edition.callers.items()]


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    edition: Edition
    issuers: tuple[str, KeySet] | None
    """The address where the key was published, and the set it was in."""
    until: float
    """Wall time."""


class JwtAuthenticator:
    """JWTs of callers. A verified one is remembered until it expires, or its key or caller is gone."""

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
        """Remember it as the last that was used, so that the first is the one to forget."""
        self._remembered.pop(digest, None)
        while len(self._remembered) >= self._limit:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = known
        self._configured.uses[known.caller.name] = self._clock.now()
        return known.caller

    async def _verify(self, text: str) -> _Verified:
        unverified = read_unverified(text)
        while True:
            edition = self._configured.edition
            expected = edition.by_claims.get((unverified.issuer, unverified.subject))
            if expected is None:
                raise Unauthenticated(why="unknown")
            check_claims(unverified, expected, now=self._clock.now())
            keys: Sequence[VerifyingKey]
            issuers: tuple[str, KeySet] | None = None
            match expected.keys:
                case tuple(own):
                    keys = [key for key in own if key.algorithm == unverified.algorithm]
                case str(url):
                    found = await self._jwks.keys(url, unverified.algorithm, unverified.kid)
                    if found is None:
                        raise Unauthenticated(why="issuer_unavailable")
                    keys, issuers = found.fitting(unverified.algorithm, unverified.kid), (url, found)
                case unexpected:
                    assert_never(unexpected)
            if edition is self._configured.edition:
                break
            # Reloaded while the issuer's keys were fetched: what was expected may no longer be.
        signed = (key for key in keys if is_signed(text, key, audience=expected.audience, required=REQUIRED))
        if (key := next(signed, None)) is None:
            raise Unauthenticated(why="signature" if keys else "unknown_key")
        is_own = isinstance(expected.keys, tuple)
        caller = replace(expected.caller, credential=f"jwt of key {key.id}") if is_own else expected.caller
        return _Verified(caller, edition, issuers, unverified.expires_at + LEEWAY)


def check_claims(unverified: UnverifiedJwt, expected: JwtRequirements, *, now: float) -> None:
    """Check audience and times, at `now` in epoch seconds; raises Unauthenticated."""
    if expected.audience not in unverified.audiences:
        raise Unauthenticated(why="audience")
    if not 0 < unverified.expires_at - unverified.issued_at <= expected.longest:
        raise Unauthenticated(why="too_long")
    if unverified.expires_at + LEEWAY <= now:
        raise Unauthenticated(why="expired")
    if max(unverified.issued_at, unverified.not_before or 0.0) - LEEWAY > now:
        raise Unauthenticated(why="too_early")


def _edition(settings: Mapping[str, CallerSettings], audience: str) -> Edition:
    records: dict[str, CallerRecord] = {}
    by_uid: dict[int, Caller] = {}
    by_claims: dict[tuple[str, str], JwtRequirements] = {}
    urls: set[str] = set()
    for name, one in settings.items():
        caller = Caller(one.name, one.accounts, one.permissions, "jwt")
        match one.proof:
            case OwnJwt(keys):
                kind = CallerKind.PUBLIC_KEY
                own = tuple(map(_loaded, keys))
                by_claims[one.name, one.name] = JwtRequirements(caller, audience, OWN_LIFE, own)
            case IssuedJwt(issuer, url, subject, aud):
                kind = CallerKind.ISSUER
                caller = replace(caller, credential=f"jwt of {issuer}")
                by_claims[issuer, subject] = JwtRequirements(caller, aud or audience, ISSUED_LIFE, url)
                urls.add(url)
            case PeerUid(uid):
                kind = CallerKind.UID
                by_uid[uid] = replace(caller, credential=f"uid {uid}")
            case unexpected:
                assert_never(unexpected)
        records[name] = CallerRecord(one.name, one.accounts, one.permissions, created_at=None, kind=kind)
    return Edition(records, by_uid, by_claims, frozenset(urls))


def _loaded(public: PublicKey) -> VerifyingKey:
    key = load_pem_public_key(public.pem.encode())
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
        raise TypeError("the configuration lets no other key through")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return VerifyingKey(public.algorithm, key, hashlib.sha256(der).hexdigest()[:12])
