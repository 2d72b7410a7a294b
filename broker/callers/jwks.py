"""The keys that issuers publish (RFC 7517): fetched from configured addresses only, and kept through their outages."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from broker.callers.jws import Algorithm, VerifyingKey, strict_json
from broker.clock import Clock
from broker.config.values import shown
from broker.providers.client import Answer, ProviderClient, Reply
from broker.single_flight import SingleFlight

log = structlog.get_logger()
FRESH = 600.0
STALE = 24 * 3600.0
"""Seconds for which a set is used while its issuer cannot be asked."""
UNKNOWN_KID_EVERY = 30.0
"""Seconds until a key that the issuer did not have is looked for again."""
NEW_KID_EVERY = 4.0
"""Seconds between two fetches for keys that were not looked for yet: whoever invents some delays a real one by that."""
REMEMBERED_KIDS = 64
"""Unknown keys of one issuer."""
RETRY_EVERY = 10.0
TIMEOUT = 5.0
MOST_KEYS = 100
RSA_BITS = range(2048, 8193)
KINDS: Mapping[object, Algorithm] = {"OKP": "EdDSA", "EC": "ES256", "RSA": "RS256"}
ACCEPT = {"Accept": "application/jwk-set+json, application/json"}


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys that an issuer published at one moment."""

    keys: tuple[VerifyingKey, ...]

    def fitting(self, algorithm: str, kid: str | None) -> Sequence[VerifyingKey]:
        """The keys that a JWT's header points to; without a `kid` there must be no choice."""
        fits = [key for key in self.keys if key.algorithm == algorithm]
        if kid is None:
            return fits if len(fits) == 1 else []
        return [key for key in fits if key.id == kid]


@dataclass(slots=True, eq=False)
class _Cached:
    """One issuer's set; times are monotonic."""

    keys: KeySet | None = None
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    failing: bool = False
    unknown: dict[str | None, float] = field(default_factory=dict)
    """Keys that the issuer did not have, and when it was asked for them."""


class JwksCache:
    """Sets of keys by address: ten minutes fresh, a day while the issuer is away, fetched once for a crowd."""

    def __init__(self, *, http: ProviderClient, clock: Clock, timeout: float = TIMEOUT) -> None:
        self._http, self._clock, self._timeout = http, clock, timeout
        self._cached: dict[str, _Cached] = {}
        self._fetches = SingleFlight[_Cached, None]("jwks")

    async def keys(self, url: str, algorithm: str, kid: str | None) -> KeySet | None:
        """The set to verify with; None where there is none, or none that is young enough."""
        cached = self._cached.setdefault(url, _Cached())
        if self._age(cached) >= FRESH:
            await self._refresh(url, cached, RETRY_EVERY if cached.failing else 0.0)
        elif cached.keys is not None and not cached.keys.fitting(algorithm, kid):
            await self._look_for(url, cached, algorithm, kid)
        return cached.keys if self._age(cached) < STALE else None

    def is_current(self, url: str, keys: KeySet) -> bool:
        """Whether that is still the address's set, and a fresh one."""
        cached = self._cached.get(url)
        return cached is not None and cached.keys is keys and self._age(cached) < FRESH

    def keep_only(self, urls: frozenset[str]) -> None:
        """Forget the sets of issuers that are no longer configured."""
        self._cached = {url: cached for url, cached in self._cached.items() if url in urls}

    async def close(self) -> None:
        await self._fetches.close()

    def _age(self, cached: _Cached) -> float:
        return self._clock.monotonic() - cached.fetched_at

    async def _look_for(self, url: str, cached: _Cached, algorithm: str, kid: str | None) -> None:
        """Fetch the set again for a key that it does not hold, unless that was done a moment ago."""
        now = self._clock.monotonic()
        if now - cached.unknown.get(kid, float("-inf")) < UNKNOWN_KID_EVERY:
            return
        is_first = await self._refresh(url, cached, NEW_KID_EVERY)
        if is_first and cached.keys is not None and not cached.keys.fitting(algorithm, kid):
            if len(cached.unknown) >= REMEMBERED_KIDS:
                cached.unknown.clear()
            cached.unknown[kid] = now

    async def _refresh(self, url: str, cached: _Cached, every: float) -> bool:
        """Join the fetch under way, or begin one, unless the last began less than `every` s ago; whether it began."""
        is_first = cached not in self._fetches
        if is_first:
            if self._clock.monotonic() - cached.tried_at < every:
                return False
            cached.tried_at = self._clock.monotonic()
        fetching = self._fetches.join(cached, lambda: self._fetch(url, cached))
        if cached.failing and self._age(cached) < STALE:
            # Nobody waits for an issuer that was away a moment ago while its old set will do.
            return is_first
        await asyncio.shield(fetching)
        return is_first

    async def _fetch(self, url: str, cached: _Cached) -> None:
        reply = await self._http.get(url, headers=ACCEPT, timeout=self._timeout, public_only=False)
        keys, why = read_keys(reply)
        if keys is None:
            cached.failing = True
            log.warning("jwks.not_fetched", url=shown(url), why=why, has_old=cached.keys is not None)
            return
        cached.keys, cached.fetched_at, cached.failing = keys, self._clock.monotonic(), False
        log.info("jwks.fetched", url=shown(url), keys=len(keys.keys))


def read_keys(reply: Reply) -> tuple[KeySet | None, str]:
    """The usable keys of an answer, or None and why; a set without any is none."""
    if not isinstance(reply, Answer):
        return None, reply.why
    if reply.status != 200:
        return None, f"status {reply.status}"
    try:
        members = strict_json(reply.body)
    except ValueError:
        return None, "no JSON"
    listed = members.get("keys") if isinstance(members, dict) else None
    if not isinstance(listed, list):
        return None, "no key set"
    keys = tuple(key for one in listed[:MOST_KEYS] if (key := _read_key(one)) is not None)
    return (KeySet(keys), "") if keys else (None, "no key that can be used")


def _read_key(jwk: object) -> VerifyingKey | None:
    """A public signature key of an algorithm that issuers may use; anything else is left out."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    operations, kid = jwk.get("key_ops", ["verify"]), jwk.get("kid")
    if not isinstance(operations, list) or "verify" not in operations or not isinstance(kid, str | None):
        return None
    algorithm = KINDS.get(kind) if isinstance(kind := jwk.get("kty"), str) else None
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    # By type: a set may hold private keys, which prove nothing.
    match key:
        case Ed25519PublicKey() | EllipticCurvePublicKey(curve=SECP256R1()):
            return VerifyingKey(algorithm, key, kid)
        case RSAPublicKey(key_size=bits) if bits in RSA_BITS:
            return VerifyingKey(algorithm, key, kid)
        case _:
            return None
