"""The machinery of OAuth without I/O: PKCE, state, scopes, what a token endpoint's bytes mean."""

import base64
import hashlib
import json
import math
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from broker.model import Secret, TokenSet

MAX_LIFE = 366 * 86400.0
UNKNOWN_LIFE_TRUST = 3600.0
"""How long a token is trusted at most whose life the provider did not say."""
NON_POSITIVE_LIFE = 60.0
REFRESH_LIVES = ("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in")
"""How providers say how long a refresh token lives: Google and GitHub, Keycloak, Intuit."""
MOST_REFRESH_LIFE = 50 * MAX_LIFE
USABLE_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}", re.ASCII)
"""What may stand in a Bearer header; anything else would let a provider inject headers at our callers."""
WHOLE_STRING = r'"\s*:\s*"((?:[^"\\\x00-\x1f]|\\.){1,16384})"'


class Unreadable(Exception):
    """A body that holds no token answer; the message says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class OAuthError:
    """An error answer of RFC 6749 5.2, or of a provider that speaks its own dialect."""

    error: str
    description: str = ""


def new_secret(size: int = 32) -> Secret:
    """An unguessable URL-safe string of `size` random bytes."""
    return Secret(secrets.token_urlsafe(size))


def hashed(secret: Secret) -> str:
    """SHA-256 in hex: how states, tickets and keys lie in the store. They are random, so no salt is needed."""
    return hashlib.sha256(secret.reveal().encode()).hexdigest()


def challenge_of(verifier: Secret) -> str:
    """The S256 code challenge: base64url of the 32 raw bytes, 43 characters (RFC 7636 4.2)."""
    digest = hashlib.sha256(verifier.reveal().encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def with_query(url: str, parameters: Mapping[str, str]) -> str:
    """`url` with `parameters` added behind those it has."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(parameters))))
    return urlunsplit(parts._replace(query=query))


def single_parameters(raw_query: str) -> dict[str, str]:
    """A query whose parameters are not repeated (RFC 6749 3.1); raises ValueError."""
    pairs = parse_qsl(raw_query, keep_blank_values=True, max_num_fields=32)
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise ValueError("a parameter is repeated")
    return parameters


def known_parameters(raw_query: str, names: Collection[str]) -> dict[str, str]:
    """The parameters of these names that have a value; raises ValueError where one of them is repeated.

    One without a value counts as left out (RFC 6749 3.1), and what is not known is ignored (4.1.2), however often
    and however much of it there is.
    """
    pairs = [(name, value) for name, value in parse_qsl(raw_query) if name in names]
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a parameter is repeated")
    return dict(pairs)


def scope_set(scope: str) -> frozenset[str]:
    """Scopes are a set: order and repetition mean nothing (RFC 6749 3.3)."""
    return frozenset(scope.split())


def scope_text(scopes: Iterable[str]) -> str:
    return " ".join(scopes)


def parse_token_answer(body: bytes, *, asked_scope: str, issued_at: float, default_life: float) -> TokenSet:
    """What a 2xx of a token endpoint gave; raises Unreadable only where it holds no usable token at all.

    A usable `access_token` or `refresh_token` is kept however odd its neighbours are; what was odd is flagged.
    Times are epoch seconds by our clock (R12): `created_at` and `Date` of the provider are ignored.
    """
    answer = _read_object(body)
    flags: list[str] = []
    access, refresh = _token(answer, "access_token", flags), _token(answer, "refresh_token", flags)
    if access is None and refresh is None:
        raise Unreadable("the answer holds neither an access token nor a refresh token")
    life = _life(answer, default_life, flags)
    if access is None:
        # The successor is safe, but there is nothing to serve: due at once.
        flags.append("access_token_missing")
        life = 0.0
    return TokenSet(
        access_token=access,
        refresh_token=refresh,
        token_type=_token_type(answer, flags),
        scope=_scope(answer, asked_scope, flags),
        issued_at=issued_at,
        expires_at=issued_at + life,
        flags=tuple(flags),
        refresh_expires_at=_refresh_end(answer, issued_at),
    )


def salvage_refresh_token(prefix: bytes) -> Secret | None:
    """A whole `refresh_token` in a cut or broken 2xx body, or None."""
    text = prefix.decode("utf-8", "replace")
    found = re.search('"refresh_token' + WHOLE_STRING, text)
    if not found:
        return None
    try:
        value = json.loads(f'"{found[1]}"')
        return Secret(value) if _storable(value) else None
    except ValueError:
        return None


def parse_error(body: bytes) -> OAuthError | None:
    """The OAuth error of an answer, or None where the body is not JSON with a string `error`."""
    try:
        answer = _read_object(body)
    except Unreadable:
        return None
    error, description = answer.get("error"), answer.get("error_description")
    if not isinstance(error, str):
        return None
    return OAuthError(error[:100], description[:300] if isinstance(description, str) else "")


def error_texts(body: bytes) -> str:
    """All error sentences of a body, in any of the shapes that Kit and Kustomer use, for recognising words.

    Shapes: `errors` (strings, arrays or objects), then `error_description`, then `error` and `message`, else
    the plain text. For matching only; it is the provider's text and may hold anything.
    """
    try:
        answer = _read_object(body)
    except Unreadable:
        return body[:1000].decode("utf-8", "replace")
    parts = [answer.get(key) for key in ("errors", "error_description", "error", "message")]
    return json.dumps([part for part in parts if part is not None])[:1000]


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        answer = _ANSWERS.decode(body.decode("utf-8-sig"))
    except (ValueError, RecursionError, OverflowError, UnicodeError) as exc:
        raise Unreadable(f"the answer is not JSON ({type(exc).__name__})") from None
    if not isinstance(answer, dict):
        raise Unreadable("the answer is JSON, but not an object")
    return answer


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last of repeated members counts, but an empty repetition must not cost a token."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if _storable(value) or not _storable(members.get(name)):
            members[name] = value
    return members


def _storable(value: object) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


_ANSWERS = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_constant=lambda _: None,
    # Python refuses integers of more than 4,300 digits; a neighbour's digits must not cost the token.
    parse_int=lambda digits: int(digits) if len(digits) < 20 else math.inf,
)


def _token(answer: Mapping[str, Any], member: str, flags: list[str]) -> Secret | None:
    value = answer.get(member)
    if _storable(value):
        return Secret(str(value))
    if value not in (None, ""):
        flags.append(f"{member}_unusable")
    return None


def is_usable(token: Secret, token_type: str) -> bool:
    """Whether a Bearer header can carry the token."""
    return token_type == "Bearer" and USABLE_TOKEN.fullmatch(token.reveal()) is not None  # noqa: S105 - a type


def _life(answer: Mapping[str, Any], default: float, flags: list[str]) -> float:
    if "expires_in" not in answer:
        flags.append("expires_in_missing")
        return min(default, UNKNOWN_LIFE_TRUST)
    seconds = _number(answer["expires_in"])
    if seconds is None:
        flags.append("expires_in_unreadable")
        return min(default, UNKNOWN_LIFE_TRUST)
    if seconds <= 0:
        flags.append("expires_in_not_positive")
        return NON_POSITIVE_LIFE
    if seconds > MAX_LIFE:
        flags.append("expires_in_clamped")
    return min(seconds, MAX_LIFE)


def _refresh_end(answer: Mapping[str, Any], issued_at: float) -> float | None:
    """No RFC names the member; these names are in use. Zero means “for ever” at some."""
    for member in REFRESH_LIVES:
        seconds = _number(answer.get(member))
        if seconds is not None and 0 < seconds <= MOST_REFRESH_LIFE:
            return issued_at + seconds
    return None


def _number(value: object) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}(\.\d{1,9})?", value, re.ASCII):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _token_type(answer: Mapping[str, Any], flags: list[str]) -> str:
    value = answer.get("token_type")
    if value in (None, "") or (isinstance(value, str) and value.lower() == "bearer"):
        return "Bearer"
    flags.append("token_type_unknown")
    return value[:32] if isinstance(value, str) and USABLE_TOKEN.fullmatch(value) else "unknown"


def _scope(answer: Mapping[str, Any], asked: str, flags: list[str]) -> str | None:
    value = answer.get("scope")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = " ".join(value)
    if not isinstance(value, str) or not _storable(value):
        return None
    granted, wanted = scope_set(value), scope_set(asked)
    if wanted - granted:
        flags.append("scope_reduced")
    if wanted and granted - wanted:
        flags.append("scope_grown")
    return " ".join(value.split())[:4096]
