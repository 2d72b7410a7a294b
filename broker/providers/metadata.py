"""Compares what a provider says of itself (RFC 8414) with what we were told of it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from broker.config.settings import ProviderSettings
from broker.providers.kinds import Endpoints, endpoints_of

METHODS = {
    "post": "client_secret_post",
    "basic": "client_secret_basic",
    "basic-raw": "client_secret_basic",
    "none": "none",
}
"""RFC 7591 section 2."""


def differences(body: bytes, settings: ProviderSettings) -> tuple[str, ...] | None:
    """Each in words for an operator; None where the body is no such metadata, or is another's."""
    ours = endpoints_of(settings)
    try:
        said = json.loads(body)
        issuer = said["issuer"] if isinstance(said, dict) and isinstance(said.get("issuer"), str) else None
        theirs, own = urlsplit(issuer or ""), urlsplit(ours.token)
    except (ValueError, RecursionError):
        return None
    # Several issuers may share a host, and then have paths of their own (RFC 8414, section 3.1).
    is_neighbour = theirs.netloc == own.netloc and not own.path.startswith(theirs.path.rstrip("/") + "/")
    if issuer is None or is_neighbour:
        return None
    return (*_addresses(said, ours), *_ways(said, settings))


def _addresses(said: Mapping[str, Any], ours: Endpoints) -> Iterator[str]:
    for member, key, url in (
        ("authorization_endpoint", "authorize_url", ours.authorize),
        ("token_endpoint", "token_url", ours.token),
        ("revocation_endpoint", "revoke_url", ours.revoke),
    ):
        theirs = said.get(member)
        if not isinstance(theirs, str) or "{org}" in (url or ""):
            continue
        if url is None:
            yield f"it names {theirs[:200]} as {member}, we have no {key}"
        elif theirs.rstrip("/") != url.rstrip("/"):
            yield f"its {member} is {theirs[:200]}, our {key} is {url}"


def _ways(said: Mapping[str, Any], settings: ProviderSettings) -> Iterator[str]:
    grants = said.get("grant_types_supported")
    if isinstance(grants, list) and "refresh_token" not in grants:
        yield "it names no refresh_token among its grant_types_supported"
    methods, method = said.get("token_endpoint_auth_methods_supported"), METHODS[settings.client_auth]
    if isinstance(methods, list) and method not in methods:
        yield f'it does not name {method}, which client_auth = "{settings.client_auth}" is'
    challenges = said.get("code_challenge_methods_supported")
    if settings.pkce and isinstance(challenges, list) and "S256" not in challenges:
        yield "it names no S256 among its code_challenge_methods_supported, and pkce is true"
