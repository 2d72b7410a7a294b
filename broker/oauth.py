"""The machinery of OAuth without I/O: PKCE, state, scopes, which tokens a header can carry."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from broker.model import Secret

MAX_LIFE = 366 * 86400.0
UNKNOWN_LIFE_TRUST = 3600.0
"""How long a token is trusted at most whose life the provider did not say."""
USABLE_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)
"""What may stand in a Bearer header; anything else would let a provider inject headers at our callers."""


def new_secret(size: int = 32) -> Secret:
    """An unguessable URL-safe string of `size` random bytes."""
    return Secret(secrets.token_urlsafe(size))


def hashed(secret: Secret) -> str:
    """SHA-256 in hex: how states, tickets and keys lie in the store. They are random, so no salt is needed."""
    return hashlib.sha256(secret.reveal().encode()).hexdigest()


def is_same(proof: str, stored: object) -> bool:
    """Compare in constant time; what is damaged in the store is never the same."""
    return isinstance(stored, str) and hmac.compare_digest(proof.encode(), stored.encode())


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


def known_parameters(
    raw_query: str, names: Collection[str], *, shown: Collection[str] = ()
) -> dict[str, str]:
    """The parameters of these names that have a value; raises ValueError where one of them is repeated.

    One without a value counts as left out (RFC 6749 3.1), and what is not known is ignored (4.1.2), however often
    and however much of it there is. Of those in `told`, by which nothing is decided, the first counts.
    """
    pairs = parse_qsl(raw_query)
    known = [(name, value) for name, value in pairs if name in names]
    if len(dict(known)) != len(known):
        raise ValueError("a parameter is repeated")
    return {**{name: value for name, value in reversed(pairs) if name in shown}, **dict(known)}


def scope_set(scope: str) -> frozenset[str]:
    """Scopes are a set: order and repetition mean nothing (RFC 6749 3.3)."""
    return frozenset(scope.split())


def scope_text(scopes: Iterable[str]) -> str:
    return " ".join(scopes)


def why_unusable(token_type: str) -> str:
    """Return why a token that is not usable is not, in words."""
    if token_type == "Bearer":  # noqa: S105 - a type
        return "the access token holds characters that no header can carry, or is longer than 64 KiB"
    return f"the provider's token_type is {token_type}, and a {token_type} token is not sent as Bearer"


def is_usable(token: Secret, token_type: str) -> bool:
    """Whether a Bearer header can carry the token."""
    return token_type == "Bearer" and USABLE_TOKEN.fullmatch(token.reveal()) is not None  # noqa: S105 - a type
