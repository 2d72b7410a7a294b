"""Kustomer: one global host or one per org, and an identity that is the org's."""

from broker.config.settings import ProviderSettings
from broker.model import Identity
from broker.providers.oauth2 import Endpoints, OAuth2Provider, at_pointer, join_api

SETS = {
    # As in the documents the project was created from.
    "global": (
        "https://api.apps.kustomerapp.com/oauth/authorize",
        "https://api.apps.kustomerapp.com/oauth/token",
        "https://api.kustomerapp.com",
    ),
    # developer.kustomer.com, "OAuth", as documented today: on the customer's own org.
    "org": (
        "https://{org}.kustomerapp.com/oauth/authorize",
        "https://{org}.api.kustomerapp.com/oauth/token",
        "https://{org}.api.kustomerapp.com",
    ),
}


class KustomerProvider(OAuth2Provider):
    """Kustomer. It documents no revocation: a disconnect is local only."""

    @staticmethod
    def endpoints(settings: ProviderSettings) -> Endpoints:
        authorize, token, api = SETS[settings.endpoints or "global"]
        return Endpoints(
            authorize=settings.authorize_url or authorize,
            token=settings.token_url or token,
            revoke=settings.revoke_url,
            identity=settings.identity_url or join_api(settings.api_url or api, "/v1/users/current"),
        )

    def read_identity(self, body: bytes) -> Identity | None:
        if self.settings.identity_pointer:
            return super().read_identity(body)
        found = at_pointer(body, "/data/relationships/org/data/id") or at_pointer(body, "/data/id")
        label = at_pointer(body, "/data/attributes/displayName") or at_pointer(body, "/data/attributes/name")
        return Identity(found, label) if found else None
