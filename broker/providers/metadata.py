"""Compares what a provider says of itself (RFC 8414) with what we were told of it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

METHODS = {
    "post": "client_secret_post",
    "basic": "client_secret_basic",
    "basic-raw": "client_secret_basic",
    "none": "none",
}
"""RFC 7591 section 2."""


@dataclass(frozen=True, slots=True)
class Ours:
    """What we would send where."""

    authorize: str
    token: str
    revoke: str | None
    client_auth: str
    pkce: bool


def differences(body: bytes, ours: Ours) -> tuple[str, ...] | None:
    """Each in words for an operator; None where the body is no such metadata, or is another's."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("issuer"), str):
        return None
    if not _is_of(said["issuer"], ours.token):
        return None
    return (*_addresses(said, ours), *_ways(said, ours))


def _is_of(issuer: str, token_url: str) -> bool:
    """Several issuers may share a host, and then have paths of their own (RFC 8414, section 3.1)."""
    try:
        theirs, ours = urlsplit(issuer), urlsplit(token_url)
    except ValueError:
        return False
    return theirs.netloc != ours.netloc or ours.path.startswith(theirs.path.rstrip("/") + "/")


def _addresses(said: Mapping[str, Any], ours: Ours) -> Iterator[str]:
    for member, key, url in (
        ("authorization_endpoint", "authorize_url", ours.authorize),
        ("token_endpoint", "token_url", ours.token),
        ("revocation_endpoint", "revoke_url", ours.revoke),
    ):
        theirs = said.get(member)
        if not isinstance(theirs, str) or "{org}" in (url or ""):
            continue
        if url is None:
            yield f"it names {_shown(theirs)} as {member}, we have no {key}"
        elif theirs.rstrip("/") != url.rstrip("/"):
            yield f"its {member} is {_shown(theirs)}, our {key} is {url}"


def _ways(said: Mapping[str, Any], ours: Ours) -> Iterator[str]:
    grants = said.get("grant_types_supported")
    if isinstance(grants, list) and "refresh_token" not in grants:
        yield "it names no refresh_token among its grant_types_supported"
    methods = said.get("token_endpoint_auth_methods_supported")
    if isinstance(methods, list) and METHODS[ours.client_auth] not in methods:
        yield f'it does not name {METHODS[ours.client_auth]}, which client_auth = "{ours.client_auth}" is'
    challenges = said.get("code_challenge_methods_supported")
    if ours.pkce and isinstance(challenges, list) and "S256" not in challenges:
        yield "it names no S256 among its code_challenge_methods_supported, and pkce is true"


def _shown(url: str) -> str:
    return url[:200]
