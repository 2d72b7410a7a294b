"""Reads and verifies JWTs. Anything odd is refused before the library sees it. Pure."""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Never, get_args

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from broker.errors import Unauthenticated
from broker.http.operations import unique_members

Key = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey
Algorithm = Literal["EdDSA", "ES256", "RS256"]

FORM = re.compile(r"([A-Za-z0-9_-]{1,1024})\.([A-Za-z0-9_-]{1,4096})\.([A-Za-z0-9_-]{1,1024})", re.ASCII)
ALGORITHMS: frozenset[str] = frozenset(get_args(Algorithm))
FORBIDDEN = frozenset({"jku", "x5u", "jwk", "x5c", "crit"})
"""Header members (RFC 7515, section 4.1) that would let the sender choose the key, or ask for more than is checked."""
LATEST = 2.0**40
"""Times beyond it are no real times."""
MOST_AUDIENCES = 32


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key and the one algorithm it is used with."""

    algorithm: Algorithm
    key: Key
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


def looks_like_jwt(credential: str) -> bool:
    return credential.count(".") == 2


def read_unverified(credential: str) -> UnverifiedJwt:
    """Return the members of a caller's JWT; raises Unauthenticated where one is missing, odd, or there twice."""
    try:
        header, claims = unverified_members(credential)
        algorithm = _text(header, "alg")
        if algorithm not in ALGORITHMS:
            raise ValueError("an algorithm that callers may not use")
        return UnverifiedJwt(
            algorithm=algorithm,
            kid=_text(header, "kid") if "kid" in header else None,
            issuer=_text(claims, "iss"),
            subject=_text(claims, "sub"),
            audiences=_texts(claims, "aud"),
            issued_at=_time(claims, "iat"),
            expires_at=_time(claims, "exp"),
            not_before=_time(claims, "nbf") if "nbf" in claims else None,
        )
    except ValueError:
        raise Unauthenticated(why="malformed") from None


def unverified_members(credential: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return header and claims of any compact JWT; raises ValueError where it is odd, or would choose its key."""
    form = FORM.fullmatch(credential)
    if form is None:
        raise ValueError("not a compact JWT")
    header, claims = (
        strict_json(urlsafe_b64decode(segment + "=" * (-len(segment) % 4))) for segment in (form[1], form[2])
    )
    if not isinstance(header, dict) or not isinstance(claims, dict) or FORBIDDEN & set(header):
        raise ValueError("no members, or one that is forbidden")
    return header, claims


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
    """JSON as RFC 8259 has it: UTF-8, no member twice, no NaN; raises ValueError."""
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


def _texts(members: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = members.get(name)
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= MOST_AUDIENCES or not all(isinstance(one, str) and one for one in values):
        raise ValueError(f"{name} is no text, and no list of texts")
    return tuple(values)


def _time(members: Mapping[str, Any], name: str) -> float:
    """Epoch seconds."""
    value = members.get(name)
    # Compared before it becomes a float: an integer may have thousands of digits. A bool is an integer as well.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise ValueError(f"{name} is no time")
    return float(value)
