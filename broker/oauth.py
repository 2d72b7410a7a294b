"""OAuth functions without I/O: random secrets and their hashes, PKCE, parameters, scopes, usable tokens."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from broker.model import Secret

MAX_LIFE = 366 * 86400.0
UNKNOWN_LIFE_TRUST = 3600.0
"""Seconds for which a token is trusted at most if the provider did not state its lifetime."""
USABLE_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)
"""Tokens that a Bearer header can carry. Others would let a provider inject headers into our callers' requests."""


def new_secret(size: int = 32) -> Secret:
    """Return an unguessable URL-safe string made of `size` random bytes."""
    return Secret(secrets.token_urlsafe(size))


def hashed(secret: Secret) -> str:
    """Return the SHA-256 in hex under which a state, ticket or key is stored. They are random, so no salt is needed."""
    return hashlib.sha256(secret.reveal().encode()).hexdigest()


def is_same(proof: str, stored: object) -> bool:
    """Compare two texts in constant time. A stored value that is damaged is never the same."""
    return isinstance(stored, str) and hmac.compare_digest(proof.encode(), stored.encode())


def challenge_of(verifier: Secret) -> str:
    """Return the S256 code challenge, 43 characters (RFC 7636 4.2)."""
    digest = hashlib.sha256(verifier.reveal().encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def with_query(url: str, parameters: Mapping[str, str]) -> str:
    """Return `url` with `parameters` appended to its query."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(parameters))))
    return urlunsplit(parts._replace(query=query))


def single_parameters(raw_query: str) -> dict[str, str]:
    """Return the parameters of a query. Raises ValueError if one is repeated (RFC 6749 3.1)."""
    pairs = parse_qsl(raw_query, keep_blank_values=True, max_num_fields=32)
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise ValueError("a parameter is repeated")
    return parameters


def known_parameters(
    raw_query: str, names: Collection[str], *, shown: Collection[str] = ()
) -> dict[str, str]:
    """Return the parameters with these names that have a value. Raises ValueError if one of them is repeated.

    A parameter without a value counts as left out (RFC 6749 3.1). Unknown ones are ignored, even if repeated (4.1.2).
    Parameters in `shown` decide nothing, so the first of several counts.
    """
    pairs = parse_qsl(raw_query)
    known = [(name, value) for name, value in pairs if name in names]
    if len(dict(known)) != len(known):
        raise ValueError("a parameter is repeated")
    return {**{name: value for name, value in reversed(pairs) if name in shown}, **dict(known)}


def scope_set(scope: str) -> frozenset[str]:
    """Return the scopes as a set, because their order and repetition mean nothing (RFC 6749 3.3)."""
    return frozenset(scope.split())


def why_unusable(token_type: str) -> str:
    """Return a sentence that says why `is_usable` refused a token of this type."""
    if token_type == "Bearer":  # noqa: S105 - a type
        return "the access token holds characters that no header can carry, or is longer than 64 KiB"
    return f"the provider's token_type is {token_type}, and a {token_type} token is not sent as Bearer"


def is_usable(token: Secret, token_type: str) -> bool:
    """Return whether a Bearer header can carry the token."""
    return token_type == "Bearer" and USABLE_TOKEN.fullmatch(token.reveal()) is not None  # noqa: S105 - a type
