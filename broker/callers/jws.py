"""Reads and verifies JWTs; anything odd is refused before the library sees it. Fetches the keys of issuers."""

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
"""Header members (RFC 7515, section 4.1) that would let the sender choose the key, or ask for more than is checked."""
LATEST = 2.0**40
"""Times beyond it are no real times."""
MOST_AUDIENCES = 32
LEEWAY = 10.0

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
class VerifyingKey:
    """A public key and the one algorithm it is used with."""

    algorithm: Algorithm
    key: OwnKey | RSAPublicKey
    id: str | None
    """The issuer's `kid`; of a caller's own key a few letters of its hash, for the audit."""


@dataclass(frozen=True, slots=True)
class UnverifiedJwt:
    """The members of a JWT, each of its right type (RFC 7519); none of them is verified."""

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
    """Load a key of the configuration, which lets no other kind through."""
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, OwnKey):
        raise TypeError("a key is Ed25519 or on a curve")
    return key


def looks_like_jwt(credential: str) -> bool:
    return credential.count(".") == 2


def read_unverified(credential: str, *, needs_issuer: bool = True) -> UnverifiedJwt:
    """Return the members of a compact JWT. Raises Unauthenticated where one is missing, odd, or there twice, or
    would let the sender choose the key."""
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
    """Check the audience and the times, at `now` in epoch seconds. Raises Unauthenticated.

    `longest`: seconds from `iat` to `exp`, at most.
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
    """Whether the key has signed the JWT, and it is for this audience. Its times are not looked at."""
    try:
        jwt.decode(
            credential,
            key.key,
            algorithms=[key.algorithm],
            audience=audience,
            # Times are compared by the clock that was passed in; `jti` is not used here.
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
    """Read JSON as RFC 8259 has it: UTF-8, no member twice, no NaN. Raises ValueError."""
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
    """Return epoch seconds. Raises ValueError."""
    value = members.get(name)
    # Compared before it becomes a float: an integer may have thousands of digits. A bool is an integer as well.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise ValueError(f"{name} is no time")
    return float(value)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys that an issuer published at one moment (RFC 7517)."""

    keys: tuple[VerifyingKey, ...]

    def fitting(self, algorithm: str, kid: str | None) -> Sequence[VerifyingKey]:
        """Return the keys that a JWT's header points to; without a `kid` there must be no choice."""
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
    """The issuers' sets by their configured addresses: ten minutes fresh, a day while the issuer is away, fetched
    once for a crowd."""

    def __init__(self, *, http: ProviderClient, clock: Clock, timeout: float = TIMEOUT) -> None:
        self._http, self._clock, self._timeout = http, clock, timeout
        self._cached: dict[str, _Cached] = {}
        self._fetches = SingleFlight[_Cached, None]("jwks")

    async def keys(self, url: str, algorithm: str, kid: str | None) -> KeySet | None:
        """Return the set to verify with; None where there is none, or none that is young enough."""
        cached = self._cached.setdefault(url, _Cached())
        if self._age(cached) >= FRESH:
            await self._refresh(url, cached, RETRY_EVERY if cached.failing else 0.0)
        elif cached.keys is not None and not cached.keys.fitting(algorithm, kid):
            # Fetched again for a key that it does not hold, unless that was done a moment ago.
            now = self._clock.monotonic()
            if now - cached.unknown.get(kid, float("-inf")) >= UNKNOWN_KID_EVERY:
                is_first = await self._refresh(url, cached, NEW_KID_EVERY)
                if is_first and not cached.keys.fitting(algorithm, kid):
                    if len(cached.unknown) >= REMEMBERED_KIDS:
                        cached.unknown.clear()
                    cached.unknown[kid] = now
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
    """Return the usable keys of an answer, or None and why; a set without any is none."""
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
    """Return a public signature key of an algorithm that issuers may use; None for anything else."""
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
