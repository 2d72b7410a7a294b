"""What the server says of itself (RFC 8414). Pure."""

from collections.abc import Iterable
from typing import Any

from broker.config.settings import PluginClient

AUTH_METHODS = ["client_secret_basic", "client_secret_post"]


def metadata(issuer: str, clients: Iterable[PluginClient]) -> dict[str, Any]:
    """The document at `/.well-known/oauth-authorization-server`. Introspection is not for the public."""
    scopes = sorted({scope for client in clients for scope in client.scopes})
    document = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/plugin/authorize",
        "token_endpoint": f"{issuer}/plugin/token",
        "revocation_endpoint": f"{issuer}/plugin/revoke",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
        "authorization_response_iss_parameter_supported": True,
    }
    # A claim without elements has to be left out (RFC 8414 3.2).
    return {**document, "scopes_supported": scopes} if scopes else document
