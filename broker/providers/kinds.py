"""The kinds of provider as data: Kit's and Kustomer's endpoints, whose account a token is for, and Kit's own pages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

from broker.config.settings import Kind, ProviderSettings
from broker.model import Identity
from broker.providers.answers import text_at

KIT = "https://app.kit.com"
INSTALL_PAGE = "{kit}/apps/{app_id}/install?k_app_id=k_{app_id}"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a provider is; each address may hold `{org}`."""

    authorize: str = ""
    token: str = ""
    revoke: str | None = None
    identity: str | None = None


SETS: Mapping[str, Endpoints] = {
    # As in the documents the project was created from; the revocation address exists only in today's.
    "app": Endpoints(
        f"{KIT}/oauth/authorize",
        f"{KIT}/oauth/token",
        "https://api.kit.com/v4/oauth/revoke",
        "https://api.kit.com/v4/account",
    ),
    # developers.kit.com, "OAuth refresh token flow", as documented today.
    "v4": Endpoints(
        "https://api.kit.com/v4/oauth/authorize",
        "https://api.kit.com/v4/oauth/token",
        "https://api.kit.com/v4/oauth/revoke",
        "https://api.kit.com/v4/account",
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
"""Below a configured `api_url`."""


def endpoints_of(settings: ProviderSettings) -> Endpoints:
    """The addresses of the configuration, else those of its endpoint set."""
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
    """Who an identity answer speaks of; None where it holds no id."""
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
    """Where Kit's pages are: at Kit, or in the sandbox that plays it, which is on this machine and so without TLS."""
    played = re.fullmatch(r"(http://.+?)(/v4)?/oauth/authorize", authorize_url or "")
    return played[1] if played else KIT
