"""The tables that `[sandbox] enabled` adds to the configuration, and the ids that broker and sandbox share."""

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.config.values import TcpListen

KIT_CLIENT_ID = "sandbox-kit"
KIT_CLIENT_SECRET = "sandbox-kit-secret"  # noqa: S105 - opens nothing but the sandbox
KUSTOMER_CLIENT_ID = "sandbox-kustomer"
KUSTOMER_CLIENT_SECRET = "sandbox-kustomer-secret"  # noqa: S105 - opens nothing but the sandbox
KIT_APP_ID = 717
PLUGIN_CLIENT_ID = "sandbox-kit-plugin"
PLUGIN_CLIENT_SECRET = "sandbox-kit-plugin-secret"  # noqa: S105 - opens nothing but the sandbox

LOGIN_PRIVATE_SEED = b"token-broker sandbox login key!!"
"""The Ed25519 seed of the sandbox's sign-in app. It is public on purpose: there anybody may sign in as anybody."""
SANDBOXED = frozenset(
    {
        *("authorize_url", "token_url", "revoke_url", "api_url", "identity_url", "issuer"),
        *("client_id", "client_secret", "previous_clients"),
    }
)
"""Keys that are always the sandbox's own, so that no grant crosses between it and the real providers."""


def supplied_tables(listen: TcpListen, login_public_pem: str) -> dict[str, Any]:
    """Return the tables that the sandbox supplies, as config.toml would have them."""
    base = f"http://{listen}"
    registered: Mapping[str, dict[str, Any]] = {
        "kit": {
            "client_id": KIT_CLIENT_ID,
            "client_secret": KIT_CLIENT_SECRET,
            "app_id": KIT_APP_ID,
            "revoke_url": f"{base}/kit/v4/oauth/revoke",
        },
        "kustomer": {"client_id": KUSTOMER_CLIENT_ID, "client_secret": KUSTOMER_CLIENT_SECRET},
    }
    providers = {
        name: {
            "type": name,
            "authorize_url": f"{base}/{name}/oauth/authorize",
            "token_url": f"{base}/{name}/oauth/token",
            "api_url": f"{base}/{name}",
            **own,
        }
        for name, own in registered.items()
    }
    plugin = {
        "name": "Kit",
        "client_id": PLUGIN_CLIENT_ID,
        "client_secret": PLUGIN_CLIENT_SECRET,
        "redirect_uris": [f"{base}/kit/apps/install", f"{base}/kit/apps"],
        "refresh_without_secret": True,
    }
    login = {"url": f"{base}/company/login", "key": login_public_pem}
    return {"providers": providers, "login": login, "plugin": {"kit": plugin}}


def with_sandbox(data: Mapping[str, Any], listen: TcpListen) -> dict[str, Any]:
    """Return the tables of the file with those of the sandbox.

    The SANDBOXED keys of a provider replace the file's. All other keys, `login` and each client of `plugin` are used
    only if the file has none. A value that is not a table is reported where it is read.
    """
    public = Ed25519PrivateKey.from_private_bytes(LOGIN_PRIVATE_SEED).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    supplied = supplied_tables(listen, pem)
    login, plugin, providers = (
        data.get("login", supplied["login"]),
        data.get("plugin", {}),
        data.get("providers", {}),
    )
    clients = plugin.get("clients", {}) if isinstance(plugin, dict) else None
    if isinstance(clients, dict):
        plugin = {**plugin, "clients": {**supplied["plugin"], **clients}}
    if isinstance(providers, dict):
        for name, ours in supplied["providers"].items():
            given = providers.get(name, {})
            if isinstance(given, dict):
                kept = {key: value for key, value in given.items() if key not in SANDBOXED}
                providers = {**providers, name: {**ours, **kept}}
    return {"providers": providers, "login": login, "plugin": plugin}
