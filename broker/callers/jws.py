"""Parses and verifies JWTs, and fetches the key sets of issuers. Malformed JWTs never reach the JWT library."""

import asyncio
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Never, get_args

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from broker.clock import Clock
from broker.config.values import shown
from broker.errors import Unauthenticated
from broker.http.operations import unique_members
from broker.providers.client import Answer, ProviderClient, Reply
from broker.single_flight import SingleFlight

log = structlog.get_logger()
OwnKey = Ed25519PublicKey | EllipticCurvePublicKey
Algorithm = Literal["EdDSA", "ES256", "RS256"]

FORM = re.compile(r"([A-Za-z0-9_-]{1,1024})\.([A-Za-z0-9_-]{1,4096})\.([A-Za-z0-9_-]{1,1024})", re.ASCII)
ALGORITHMS: frozenset[str] = frozenset(get_args(Algorithm))
FORBIDDEN = frozenset({"jku", "x5u", "jwk", "x5c", "crit"})
"""Header members (RFC 7515, 4.1) that let the sender choose the key or demand checks that are not made here."""
LATEST = 2.0**40
"""The greatest accepted time, in epoch seconds."""
MOST_AUDIENCES = 32
LEEWAY = 10.0

FRESH = 600.0
STALE = 24 * 3600.0
"""Seconds for which a key set is used while its issuer does not answer."""
UNKNOWN_KID_EVERY = 30.0
"""Seconds between two fetches for the same unknown `kid`."""
NEW_KID_EVERY = 4.0
"""Seconds between two fetches for different unknown `kid`s. Invented ones delay a new key by no more."""
REMEMBERED_KIDS = 64
"""The most unknown `kid`s that are remembered for one issuer."""
RETRY_EVERY = 10.0
TIMEOUT = 5.0
MOST_KEYS = 100
RSA_BITS = range(2048, 8193)
KINDS: Mapping[object, Algorithm] = {"OKP": "EdDSA", "EC": "ES256", "RSA": "RS256"}
ACCEPT = {"Accept": "application/jwk-set+json, application/json"}


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key, and the only algorithm that it verifies."""

    algorithm: Algorithm
    key: OwnKey | RSAPublicKey
    id: str | None
    """The issuer's `kid`; for a caller's own key the first digits of its hash, for the audit."""


@dataclass(frozen=True, slots=True)
class UnverifiedJwt:
    """The members of a JWT with their right types (RFC 7519). Nothing about them is verified."""

    algorithm: str
    kid: str | None
    issuer: str
    subject: str
    audiences: tuple[str, ...]
    issued_at: float
    expires_at: float
    not_before: float | None
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def load_key(pem: str) -> OwnKey:
    """Load a public key that the configuration has already validated."""
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, OwnKey):
        raise TypeError("a key is Ed25519 or on a curve")
    return key


def looks_like_jwt(credential: str) -> bool:
    """Return whether a credential has the three parts of a JWT."""
    return credential.count(".") == 2


def read_unverified(credential: str, *, needs_issuer: bool = True) -> UnverifiedJwt:
    """Return the members of a compact JWT.

    Raises Unauthenticated if a member is missing, malformed, repeated, or lets the sender choose the key.
    """
    try:
        form = FORM.fullmatch(credential)
        if form is None:
            raise ValueError("not a compact JWT")
        header, claims = (
            strict_json(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
            for segment in (form[1], form[2])
        )
        if not isinstance(header, dict) or not isinstance(claims, dict) or FORBIDDEN & set(header):
            raise ValueError("no members, or one that is forbidden")
        algorithm = _text(header, "alg")
        if algorithm not in ALGORITHMS:
            raise ValueError("an algorithm that is not used here")
        audience = claims.get("aud")
        audiences: list[Any] = audience if isinstance(audience, list) else [audience]
        if not 1 <= len(audiences) <= MOST_AUDIENCES or not all(isinstance(a, str) and a for a in audiences):
            raise ValueError("aud is no text, and no list of texts")
        return UnverifiedJwt(
            algorithm=algorithm,
            kid=_text(header, "kid") if "kid" in header else None,
            issuer=_text(claims, "iss") if needs_issuer else "",
            subject=_text(claims, "sub"),
            audiences=tuple(audiences),
            issued_at=_time(claims, "iat"),
            expires_at=_time(claims, "exp"),
            not_before=_time(claims, "nbf") if "nbf" in claims else None,
            claims=claims,
        )
    except ValueError:
        raise Unauthenticated(why="malformed") from None


def check_claims(unverified: UnverifiedJwt, *, audience: str, longest: float, now: float) -> None:
    """Check the audience and the times at `now`, in epoch seconds; raises Unauthenticated.

    `longest` is the greatest number of seconds from `iat` to `exp`.
    """
    if audience not in unverified.audiences:
        raise Unauthenticated(why="audience")
    if not 0 < unverified.expires_at - unverified.issued_at <= longest:
        raise Unauthenticated(why="too_long")
    if unverified.expires_at + LEEWAY <= now:
        raise Unauthenticated(why="expired")
    if max(unverified.issued_at, unverified.not_before or 0.0) - LEEWAY > now:
        raise Unauthenticated(why="too_early")


def is_signed(credential: str, key: VerifyingKey, *, audience: str, required: Sequence[str]) -> bool:
    """Return whether the key signed the JWT and the audience is right. The times are not checked."""
    try:
        jwt.decode(
            credential,
            key.key,
            algorithms=[key.algorithm],
            audience=audience,
            # `check_claims` checks the times with the clock of the caller; `jti` is not used.
            options={
                "require": list(required),
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_jti": False,
            },
        )
    except (jwt.PyJWTError, ValueError):
        return False
    return True


def strict_json(data: bytes) -> Any:
    """Parse JSON strictly (RFC 8259): UTF-8, no repeated member, no NaN; raises ValueError."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique_members, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_number(constant: str) -> Never:
    raise ValueError(f"{constant} is no number")


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is no text")
    return value


def _time(members: Mapping[str, Any], name: str) -> float:
    """Return epoch seconds; raises ValueError."""
    value = members.get(name)
    # Compared before the conversion, because an integer may have thousands of digits. A bool is an int too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise ValueError(f"{name} is no time")
    return float(value)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one version of an issuer's key set (RFC 7517)."""

    keys: tuple[VerifyingKey, ...]

    def fitting(self, algorithm: str, kid: str | None) -> Sequence[VerifyingKey]:
        """Return the keys that a JWT's header selects; without a `kid` only if there is exactly one."""
        fits = [key for key in self.keys if key.algorithm == algorithm]
        if kid is None:
            return fits if len(fits) == 1 else []
        return [key for key in fits if key.id == kid]


@dataclass(slots=True, eq=False)
class _Cached:
    """The cache entry of one issuer; times are monotonic."""

    keys: KeySet | None = None
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    failing: bool = False
    unknown: dict[str | None, float] = field(default_factory=dict)
    """The time when the set was last fetched for a `kid` that it did not have, by `kid`."""


class JwksCache:
    """A cache of the issuers' key sets by URL.

    A set is used for ten minutes, and for a day while its issuer does not answer. Concurrent requests share a fetch.
    """

    def __init__(self, *, http: ProviderClient, clock: Clock, timeout: float = TIMEOUT) -> None:
        self._http, self._clock, self._timeout = http, clock, timeout
        self._cached: dict[str, _Cached] = {}
        self._fetches = SingleFlight[_Cached, None]("jwks")

    async def keys(self, url: str, algorithm: str, kid: str | None) -> KeySet | None:
        """Return the issuer's key set, fetched again if it is old or lacks `kid`; None if there is none."""
        cached = self._cached.setdefault(url, _Cached())
        if self._age(cached) >= FRESH:
            await self._refresh(url, cached, RETRY_EVERY if cached.failing else 0.0)
        elif cached.keys is not None and not cached.keys.fitting(algorithm, kid):
            # The issuer may have added the key since the last fetch.
            now = self._clock.monotonic()
            if now - cached.unknown.get(kid, float("-inf")) >= UNKNOWN_KID_EVERY:
                is_first = await self._refresh(url, cached, NEW_KID_EVERY)
                if is_first and not cached.keys.fitting(algorithm, kid):
                    if len(cached.unknown) >= REMEMBERED_KIDS:
                        cached.unknown.clear()
                    cached.unknown[kid] = now
        return cached.keys if self._age(cached) < STALE else None

    def is_current(self, url: str, keys: KeySet) -> bool:
        """Return whether `keys` is still the cached set of that URL and not too old."""
        cached = self._cached.get(url)
        return cached is not None and cached.keys is keys and self._age(cached) < FRESH

    def keep_only(self, urls: frozenset[str]) -> None:
        """Delete the sets of issuers that are no longer configured."""
        self._cached = {url: cached for url, cached in self._cached.items() if url in urls}

    async def close(self) -> None:
        """Cancel the running fetches."""
        await self._fetches.close()

    def _age(self, cached: _Cached) -> float:
        return self._clock.monotonic() - cached.fetched_at

    async def _refresh(self, url: str, cached: _Cached, every: float) -> bool:
        """Join the running fetch, or start one unless the last started less than `every` s ago; return if it did."""
        is_first = cached not in self._fetches
        if is_first:
            if self._clock.monotonic() - cached.tried_at < every:
                return False
            cached.tried_at = self._clock.monotonic()
        fetching = self._fetches.join(cached, lambda: self._fetch(url, cached))
        if cached.failing and self._age(cached) < STALE:
            # The old set is used without waiting, because the issuer did not answer the last time.
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
    """Return the usable keys of an answer and "", or None and the reason if there are none."""
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
    """Return the key of a JWK if it verifies signatures of a supported algorithm, else None."""
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
    # The type is checked, because a set may contain private keys, which must not be used.
    match key:
        case Ed25519PublicKey() | EllipticCurvePublicKey(curve=SECP256R1()):
            return VerifyingKey(algorithm, key, kid)
        case RSAPublicKey(key_size=bits) if bits in RSA_BITS:
            return VerifyingKey(algorithm, key, kid)
        case _:
            return None
