"""Kit: its two sets of endpoints, its tenants, its account."""

import re
from collections.abc import Mapping

from broker.config.settings import ProviderSettings
from broker.model import Identity
from broker.providers.oauth2 import Endpoints, OAuth2Provider, at_pointer, join_api

API = "https://api.kit.com"
SETS = {
    # As in the documents the project was created from; the revocation address exists only in today's.
    "app": (
        "https://app.kit.com/oauth/authorize",
        "https://app.kit.com/oauth/token",
        f"{API}/v4/oauth/revoke",
    ),
    # developers.kit.com, "OAuth refresh token flow", as documented today.
    "v4": (f"{API}/v4/oauth/authorize", f"{API}/v4/oauth/token", f"{API}/v4/oauth/revoke"),
}
KIT = "https://app.kit.com"
INSTALL_PAGE = "{kit}/apps/{app_id}/install?k_app_id=k_{app_id}"


class KitProvider(OAuth2Provider):
    """Kit, formerly ConvertKit."""

    @staticmethod
    def endpoints(settings: ProviderSettings) -> Endpoints:
        authorize, token, revoke = SETS[settings.endpoints or "app"]
        return Endpoints(
            authorize=settings.authorize_url or authorize,
            token=settings.token_url or token,
            revoke=settings.revoke_url or revoke,
            identity=settings.identity_url or join_api(settings.api_url or API, "/v4/account"),
        )

    def extra_authorize_parameters(self, account: str | None) -> Mapping[str, str]:
        # Without it, connecting one Kit account twice may hand out the same token, and revoking one kills both.
        return (
            {"tenant_name": account}
            if account and "tenant_name" not in self.settings.authorize_params
            else {}
        )

    def read_identity(self, body: bytes) -> Identity | None:
        if self.settings.identity_pointer:
            return super().read_identity(body)
        account_id = at_pointer(body, "/account/id")
        if account_id is None:
            return None
        # The name can be empty in live answers.
        label = at_pointer(body, "/account/name") or at_pointer(body, "/account/primary_email_address")
        return Identity(account_id, label or f"Kit account {account_id}")


def pages_of(authorize_url: str | None) -> str:
    """Where Kit's pages are: at Kit, or in the sandbox that plays it, which is on this machine and so without TLS."""
    played = re.fullmatch(r"(http://.+?)(/v4)?/oauth/authorize", authorize_url or "")
    return played[1] if played else KIT
