"""The callers that the configuration names, and the JWTs and uids that prove them."""

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
    """The requirements for JWTs of one `iss` and `sub`, and the caller that they prove."""

    caller: Caller
    audience: str
    longest: float
    """Seconds from `iat` to `exp`, at most."""
    keys: tuple[VerifyingKey, ...] | str
    """Keys that the configuration holds, or the address where an issuer publishes its keys."""


class Edition:
    """The callers of one reading of the file."""

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
    """The callers of `[callers.*]` at present, and when each was last used."""

    def __init__(self, settings: Mapping[str, CallerSettings], *, audience: str) -> None:
        self._audience = audience
        self.edition = Edition(settings, audience)
        """A JWT that was verified against an earlier edition has to be verified again."""
        self.uses: dict[str, float] = {}
        """When callers were last used, as far as it is not stored yet."""

    def use(self, settings: Mapping[str, CallerSettings]) -> None:
        """Go on with other callers: the configuration was reloaded."""
        self.edition = Edition(settings, self._audience)

    def has(self, name: str) -> bool:
        return name in self.edition.callers

    def records(self, uses: Mapping[str, float]) -> list[CallerRecord]:
        """Return the callers as they are shown; `uses` says when each was last used."""
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
            # Reloaded while the issuer's keys were fetched: what was expected may no longer be.
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
