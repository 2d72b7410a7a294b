"""The endpoints of Kit and Kustomer, how their accounts are identified, and how their metadata is compared."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from broker.config.settings import Kind, ProviderSettings
from broker.model import Identity
from broker.providers.answers import text_at

KIT, KIT_API = "https://app.kit.com", "https://api.kit.com/v4"
INSTALL_PAGE = "{kit}/apps/{app_id}/install?k_app_id=k_{app_id}"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The URLs of a provider; each may hold `{org}`."""

    authorize: str = ""
    token: str = ""
    revoke: str | None = None
    identity: str | None = None


SETS: Mapping[str, Endpoints] = {
    # As in the documents the project was created from; the revocation address exists only in today's.
    "app": Endpoints(
        f"{KIT}/oauth/authorize",
        f"{KIT}/oauth/token",
        f"{KIT_API}/oauth/revoke",
        f"{KIT_API}/account",
    ),
    # developers.kit.com, "OAuth refresh token flow", as documented today.
    "v4": Endpoints(
        f"{KIT_API}/oauth/authorize",
        f"{KIT_API}/oauth/token",
        f"{KIT_API}/oauth/revoke",
        f"{KIT_API}/account",
    ),
    # As in the documents the project was created from. Kustomer documents no revocation: a disconnect is local only.
    "global": Endpoints(
        "https://api.apps.kustomerapp.com/oauth/authorize",
        "https://api.apps.kustomerapp.com/oauth/token",
        identity="https://api.kustomerapp.com/v1/users/current",
    ),
    # developer.kustomer.com, "OAuth", as documented today: on the customer's own org.
    "org": Endpoints(
        "https://{org}.kustomerapp.com/oauth/authorize",
        "https://{org}.api.kustomerapp.com/oauth/token",
        identity="https://{org}.api.kustomerapp.com/v1/users/current",
    ),
}
IDENTITY_PATHS: Mapping[Kind, str] = {"kit": "v4/account", "kustomer": "v1/users/current"}
"""The path of the identity endpoint below a configured `api_url`."""
METHODS = {
    "post": "client_secret_post",
    "basic": "client_secret_basic",
    "basic-raw": "client_secret_basic",
    "none": "none",
}
"""The names of `client_auth` in metadata (RFC 7591, section 2)."""


def endpoints_of(settings: ProviderSettings) -> Endpoints:
    """Return the configured URLs, and those of the endpoint set for the others."""
    usual = SETS.get(settings.endpoints or "", Endpoints())
    path = IDENTITY_PATHS.get(settings.type)
    below_api = urljoin(settings.api_url.rstrip("/") + "/", path) if settings.api_url and path else None
    return Endpoints(
        settings.authorize_url or usual.authorize,
        settings.token_url or usual.token,
        settings.revoke_url or usual.revoke,
        settings.identity_url or below_api or usual.identity,
    )


def identity_in(body: bytes, settings: ProviderSettings) -> Identity | None:
    """Return the account that an identity answer names, or None if it holds no id."""
    if settings.identity_pointer or settings.type == "oauth2":
        found = text_at(body, settings.identity_pointer or "")
        return Identity(found) if found else None
    if settings.type == "kit":
        found = text_at(body, "/account/id")
        # The name can be empty in live answers.
        label = text_at(body, "/account/name") or text_at(body, "/account/primary_email_address")
        return Identity(found, label or f"Kit account {found}") if found else None
    found = text_at(body, "/data/relationships/org/data/id") or text_at(body, "/data/id")
    label = text_at(body, "/data/attributes/displayName") or text_at(body, "/data/attributes/name")
    return Identity(found, label) if found else None


def pages_of(authorize_url: str | None) -> str:
    """Return the base URL of Kit's pages: Kit's own, or the sandbox's, which is recognized by having no TLS."""
    played = re.fullmatch(r"(http://.+?)(/v4)?/oauth/authorize", authorize_url or "")
    return played[1] if played else KIT


def differences(body: bytes, settings: ProviderSettings) -> tuple[str, ...] | None:
    """Return where a provider's metadata (RFC 8414) and the settings differ, in words for an operator.

    None: the body is not metadata, or is that of another issuer.
    """
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
    return (*_different_urls(said, ours), *_different_methods(said, settings))


def _different_urls(said: Mapping[str, Any], ours: Endpoints) -> Iterator[str]:
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


def _different_methods(said: Mapping[str, Any], settings: ProviderSettings) -> Iterator[str]:
    grants = said.get("grant_types_supported")
    if isinstance(grants, list) and "refresh_token" not in grants:
        yield "it names no refresh_token among its grant_types_supported"
    methods, method = said.get("token_endpoint_auth_methods_supported"), METHODS[settings.client_auth]
    if isinstance(methods, list) and method not in methods:
        yield f'it does not name {method}, which client_auth = "{settings.client_auth}" is'
    challenges = said.get("code_challenge_methods_supported")
    if settings.pkce and isinstance(challenges, list) and "S256" not in challenges:
        yield "it names no S256 among its code_challenge_methods_supported, and pkce is true"
