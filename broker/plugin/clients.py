"""Which clients there are, and whether one is who it says."""

import hashlib
import hmac
from collections.abc import Mapping

from broker.config.settings import PluginClient
from broker.model import Secret
from broker.observe.metrics import Metrics
from broker.plugin.parameters import Credentials
from broker.plugin.refusals import Refused

NOBODY = hashlib.sha256(b"no client has this secret, for it is longer than any may be" * 8).digest()


class Clients:
    """The configured clients by their ids."""

    def __init__(self, clients: Mapping[str, PluginClient], *, metrics: Metrics) -> None:
        self._by_name, self._metrics = clients, metrics
        self._by_id = {client.client_id: client for client in clients.values()}
        self._digests = {
            client.client_id: [_digest(secret) for secret in client.secrets] for client in clients.values()
        }

    def named(self, name: str) -> PluginClient | None:
        """By its table's name; None: the configuration has it no more."""
        return self._by_name.get(name)

    def by_id(self, client_id: str) -> PluginClient | None:
        return self._by_id.get(client_id)

    def all(self) -> tuple[PluginClient, ...]:
        return tuple(self._by_name.values())

    def authenticate(self, credentials: Credentials, *, renewing: bool = False) -> PluginClient:
        """The client, proven; raises Refused, the same whether the id or the secret is wrong.

        `renewing`: where the client's settings say so, its id is enough; a secret that is sent must be right.
        """
        client = self._by_id.get(credentials.client_id)
        if credentials.secret is None:
            if client is not None and renewing and client.refresh_without_secret:
                return client
        elif self._is_secret_of(credentials) and client is not None:
            return client
        self._metrics.auth_failures.labels("plugin_client").inc()
        raise Refused(
            "invalid_client", "The client is unknown, or its secret is wrong.", basic=credentials.basic
        )

    def _is_secret_of(self, credentials: Credentials) -> bool:
        """An unknown client has a digest to compare with too, so that time does not tell it apart."""
        given = _digest(credentials.secret or Secret(""))
        known = self._digests.get(credentials.client_id, [NOBODY])
        return any(hmac.compare_digest(given, digest) for digest in known)


def _digest(secret: Secret) -> bytes:
    return hashlib.sha256(secret.reveal().encode()).digest()
