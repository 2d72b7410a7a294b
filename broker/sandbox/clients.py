"""Which OAuth apps exist at the providers the sandbox plays, and where they may send people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from broker.config.sandbox import KIT_CLIENT_ID, KIT_CLIENT_SECRET, KUSTOMER_CLIENT_ID, KUSTOMER_CLIENT_SECRET
from broker.sandbox.faults import PROVIDERS, Provider
from broker.sandbox.store import SandboxStore

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
UPSERT = """
INSERT INTO clients (provider, client_id, secrets, redirect_uris) VALUES (?, ?, ?, ?)
    ON CONFLICT (provider, client_id)
    DO UPDATE SET secrets = excluded.secrets, redirect_uris = excluded.redirect_uris"""
SUPPLIED: Mapping[Provider, tuple[str, str]] = {
    "kit": (KIT_CLIENT_ID, KIT_CLIENT_SECRET),
    "kustomer": (KUSTOMER_CLIENT_ID, KUSTOMER_CLIENT_SECRET),
}


@dataclass(frozen=True, slots=True)
class Client:
    """One app. Without secrets it is a public client, which must use PKCE."""

    provider: Provider
    client_id: str
    secrets: tuple[str, ...]
    redirect_uris: tuple[str, ...] | None
    """None: the provider's callback at any loopback port or at the broker's public URL."""


class Clients:
    """The registered apps; the two that `[sandbox]` supplies are always there at the start."""

    def __init__(self, *, store: SandboxStore, broker_public_url: str) -> None:
        self._store = store
        self._broker = broker_public_url

    def supply(self) -> None:
        """Register the supplied apps where nothing stands under their ids."""
        for provider in PROVIDERS:
            client_id, secret = SUPPLIED[provider]
            if self.find(provider, client_id) is None:
                self.put(Client(provider, client_id, (secret,), None))

    def put(self, client: Client) -> None:
        uris = None if client.redirect_uris is None else json.dumps(client.redirect_uris)
        self._store.write(UPSERT, client.provider, client.client_id, json.dumps(client.secrets), uris)

    def remove(self, provider: Provider, client_id: str) -> None:
        self._store.write("DELETE FROM clients WHERE provider = ? AND client_id = ?", provider, client_id)

    def find(self, provider: Provider, client_id: str) -> Client | None:
        row = self._store.row(
            "SELECT secrets, redirect_uris FROM clients WHERE provider = ? AND client_id = ?",
            provider,
            client_id,
        )
        if row is None:
            return None
        uris = None if row["redirect_uris"] is None else tuple(json.loads(row["redirect_uris"]))
        return Client(provider, client_id, tuple(json.loads(row["secrets"])), uris)

    def allows(self, client: Client, redirect_uri: str) -> bool:
        """Whether the app registered this redirect URI, compared as text (RFC 9700, 2.1)."""
        if client.redirect_uris is not None:
            return redirect_uri in client.redirect_uris
        path = f"/callback/{client.provider}"
        return redirect_uri == f"{self._broker}{path}" or _is_loopback(redirect_uri, path)


def _is_loopback(uri: str, path: str) -> bool:
    parts = urlsplit(uri)
    bare = not parts.query and not parts.fragment and "@" not in parts.netloc
    return parts.scheme in ("http", "https") and parts.hostname in LOOPBACK and parts.path == path and bare


def client_from_json(provider: Provider, document: Mapping[str, object]) -> Client:
    """The app that `POST /_sandbox/clients` describes. Raises ValueError with the member that is wrong."""
    client_id = document.get("client_id")
    if not isinstance(client_id, str) or not client_id:
        raise ValueError("client_id: a string is needed")
    secret = document.get("client_secret")
    secrets = [] if secret is None else [secret]
    redirect_uris = document.get("redirect_uris")
    return Client(
        provider,
        client_id,
        _texts("client_secrets", document.get("client_secrets", secrets)),
        None if redirect_uris is None else _texts("redirect_uris", redirect_uris),
    )


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{name}: a list of strings is needed")
    if not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name}: a list of strings is needed")
    return tuple(value)
