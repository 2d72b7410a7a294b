"""The clients of the OAuth server: how their requests are read, how they are authenticated and refused."""

import base64
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_plus

from broker import oauth
from broker.config.settings import PluginClient
from broker.model import Caller, Secret
from broker.observe.metrics import Metrics

TokenError = Literal[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unsupported_grant_type",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
]
RedirectError = Literal[
    "invalid_request",
    "access_denied",
    "unsupported_response_type",
    "invalid_scope",
    "temporarily_unavailable",
]
"""Errors of RFC 6749 4.1.2.1, which a client receives in a redirect."""
REDIRECT_ERRORS: dict[RedirectError, str] = {
    "invalid_request": "A parameter is missing, malformed, repeated or too long; code_challenge_method is S256.",
    "access_denied": "The user or the server denied access.",
    "unsupported_response_type": "The response_type is code.",
    "invalid_scope": "A scope was asked for that this client may not ask for.",
    "temporarily_unavailable": "Try again in a minute.",
}
KNOWN = frozenset(
    {
        *("client_id", "client_secret", "code", "code_verifier", "grant_type", "redirect_uri"),
        *("refresh_token", "scope", "token", "token_type_hint"),
    }
)
VISIBLE = re.compile(r"[\x20-\x7e]{1,4096}", re.ASCII)
"""The characters and length of any parameter (RFC 6749 appendix A)."""
MOST_FIELDS = 32
BASIC = re.compile(r"[Bb][Aa][Ss][Ii][Cc] +([A-Za-z0-9+/]+={0,2})", re.ASCII)
NOBODY = oauth.hashed(Secret("no client has this secret, for it is longer than any may be" * 8))
Parameters = Mapping[str, str]
"""Known parameters of a request; one without a value counts as omitted (RFC 6749 3.2)."""


class Refused(Exception):
    """An error answer of RFC 6749 5.2. The description holds nothing of the request."""

    def __init__(self, error: TokenError, description: str, *, basic: bool = False) -> None:
        super().__init__(error)
        self.error, self.description = error, description
        self.basic = basic
        """True if the client used the Authorization header; then the answer has WWW-Authenticate (RFC 6749 5.2)."""

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return {"invalid_client": 401, "server_error": 500, "temporarily_unavailable": 503}.get(
            self.error, 400
        )


def bad_grant(what: str) -> Refused:
    """Refuse a code or a refresh token, without the reason, which would only help an attacker."""
    return Refused(
        "invalid_grant",
        f"The {what} is unknown, expired, used or revoked, or was given to another client or address.",
    )


def required(parameters: Parameters, name: str) -> Secret:
    """Return a parameter that must be present. Raises Refused."""
    value = parameters.get(name)
    if value is None:
        raise Refused("invalid_request", f"The parameter {name} is missing.")
    return Secret(value)


def read_parameters(body: bytes, query: Iterable[str] = ()) -> Parameters:
    """Return the parameters of a body, JSON or a form; `query` has the names in the URL. Raises Refused.

    Kit's own samples send JSON under a form content type, so the body's first character decides.
    """
    if KNOWN & set(query):
        raise Refused("invalid_request", "Parameters belong into the body, not into the address.")
    try:
        text = body.decode("utf-8-sig").strip()
        # A list of pairs shows repeated parameters.
        pairs: list[tuple[str, Any]] = (
            json.loads(text, object_pairs_hook=list)
            if text.startswith("{")
            else parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
        )
    except (ValueError, RecursionError):
        raise Refused("invalid_request", "The body is neither a form nor a JSON object.") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise Refused("invalid_request", "A parameter is repeated.")
    known = {name: value for name, value in pairs if name in KNOWN and value not in (None, "")}
    if not all(isinstance(value, str) and VISIBLE.fullmatch(value) for value in known.values()):
        raise Refused("invalid_request", "A parameter is not a string of visible ASCII, or is too long.")
    return known


class Clients:
    """The configured clients, by the names of their tables and by their client ids."""

    def __init__(self, clients: Mapping[str, PluginClient], *, metrics: Metrics) -> None:
        self.by_name, self._metrics = clients, metrics
        self.by_id = {client.client_id: client for client in clients.values()}
        self._digests = {
            client_id: [oauth.hashed(secret) for secret in client.secrets]
            for client_id, client in self.by_id.items()
        }

    def authenticate(
        self, headers: list[str], parameters: Parameters, *, renewing: bool = False
    ) -> PluginClient:
        """Return the client, authenticated by the Authorization header or the body, never both (RFC 6749 2.3).

        `renewing`: the id alone is enough if the client's settings allow it, but a secret that is sent must be right.
        Raises Refused, with the same answer for a wrong id and a wrong secret.
        """
        if len(headers) > 1:
            raise Refused("invalid_request", "There is more than one Authorization header.")
        name, secret = parameters.get("client_id"), parameters.get("client_secret")
        # A Bearer header authenticates no client; some libraries send one along.
        is_basic = bool(headers) and not headers[0].lower().startswith("bearer ")
        if is_basic:
            in_body = name, secret
            name, secret = _basic(headers[0])
            if in_body[1] is not None or in_body[0] not in (None, name):
                raise Refused("invalid_request", "The client is named in two ways at once.")
        if name is None:
            raise Refused("invalid_client", "No client is named.")
        client = self.by_id.get(name)
        if secret is None:
            if client is not None and renewing and client.refresh_without_secret:
                return client
        else:
            given = oauth.hashed(Secret(secret))
            # An unknown client has a digest to compare with too, so that both take the same time.
            known = self._digests.get(name, [NOBODY])
            if any(hmac.compare_digest(given, digest) for digest in known) and client is not None:
                return client
        self._metrics.auth_failures.labels("plugin_client").inc()
        raise Refused("invalid_client", "The client is unknown, or its secret is wrong.", basic=is_basic)


def _basic(header: str) -> tuple[str, str | None]:
    """Return the id and the secret of a Basic header. Raises Refused."""
    form = BASIC.fullmatch(header)
    if form is None:
        raise Refused("invalid_client", "The Authorization header is not Basic.", basic=True)
    try:
        name, colon, secret = base64.b64decode(form[1], validate=True).decode().partition(":")
        # Both were form-encoded before they were put together (RFC 6749 2.3.1).
        name, secret = (unquote_plus(part, errors="strict") for part in (name, secret))
    except ValueError:
        colon = name = secret = ""
    if not colon or not VISIBLE.fullmatch(name) or (secret and not VISIBLE.fullmatch(secret)):
        raise Refused("invalid_client", "The Authorization header is malformed.", basic=True)
    return name, secret or None


def as_caller(client: PluginClient) -> Caller:
    """Return the caller that names a client in the audit log; it has no permissions."""
    return Caller(f"plugin:{client.name}", (), frozenset(), credential=f"client {client.client_id}")
