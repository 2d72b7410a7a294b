"""Reads a JWT without believing it: whatever is odd is refused before any library sees it. Pure."""

import binascii
import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never

from broker.errors import Unauthenticated

FORM = re.compile(r"([A-Za-z0-9_-]{1,1024})\.([A-Za-z0-9_-]{1,4096})\.([A-Za-z0-9_-]{1,1024})", re.ASCII)
ALGORITHMS = frozenset({"EdDSA", "ES256", "RS256"})
FORBIDDEN = frozenset({"jku", "x5u", "jwk", "x5c", "crit"})
"""Header members (RFC 7515, section 4.1) that would let the sender choose the key, or ask for more than is checked."""
LATEST = 2.0**40
"""Times beyond it are not meant."""
MOST_AUDIENCES = 32


@dataclass(frozen=True, slots=True)
class UnverifiedJwt:
    """What a JWT says of itself, each member of its right type (RFC 7519); nothing of it is proven."""

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
    """The members of a compact JWT; raises Unauthenticated where one is missing, odd, or there twice."""
    form = FORM.fullmatch(credential)
    if form is None:
        raise _malformed()
    header, claims = _members(form[1]), _members(form[2])
    algorithm = _text(header, "alg")
    if FORBIDDEN & set(header) or algorithm not in ALGORITHMS:
        raise _malformed()
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


def strict_json(data: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no member twice, no NaN; raises ValueError."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _members(segment: str) -> Mapping[str, Any]:
    try:
        members = strict_json(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, binascii.Error):
        raise _malformed() from None
    if not isinstance(members, dict):
        raise _malformed()
    return members


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _no_number(constant: str) -> Never:
    raise ValueError(f"{constant} is no number")


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise _malformed()
    return value


def _texts(members: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = members.get(name)
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= MOST_AUDIENCES:
        raise _malformed()
    if not all(isinstance(one, str) and one for one in values):
        raise _malformed()
    return tuple(values)


def _time(members: Mapping[str, Any], name: str) -> float:
    """Epoch seconds."""
    value = members.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _malformed()
    # Before it becomes a float: an integer may have thousands of digits.
    if not 0 <= value <= LATEST or not math.isfinite(value):
        raise _malformed()
    return float(value)


def _malformed() -> Unauthenticated:
    return Unauthenticated(why="malformed")
