"""Reads what clients send: JSON or a form, whatever the content type says, and who they say they are."""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from broker.model import Secret
from broker.plugin.refusals import Refused

KNOWN = frozenset(
    {
        "client_id",
        "client_secret",
        "code",
        "code_verifier",
        "grant_type",
        "redirect_uri",
        "refresh_token",
        "scope",
        "token",
        "token_type_hint",
    }
)
VISIBLE = re.compile(r"[\x20-\x7e]{1,4096}", re.ASCII)
"""What any of them may hold (RFC 6749 appendix A)."""
MOST_FIELDS = 32
BASIC = re.compile(r"[Bb][Aa][Ss][Ii][Cc] +([A-Za-z0-9+/]+={0,2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a client says it is, unproven."""

    client_id: str
    secret: Secret | None
    basic: bool
    """Whether it came in the Authorization header."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to the token, revocation or introspection endpoint."""

    parameters: Mapping[str, str] = field(repr=False)
    """Known ones only; those without a value are as if they were omitted (RFC 6749 3.2)."""

    def text(self, name: str) -> str:
        """A parameter that has to be there; raises Refused."""
        value = self.parameters.get(name)
        if value is None:
            raise Refused("invalid_request", f"The parameter {name} is missing.")
        return value

    def secret(self, name: str) -> Secret:
        """Raises Refused."""
        return Secret(self.text(name))


def read_asked(body: bytes, query: Iterable[str] = ()) -> Asked:
    """The parameters of a body; `query` are the names in the address. Raises Refused.

    Kit's own samples send JSON under a form content type, so the body's first character decides.
    """
    if KNOWN & set(query):
        raise Refused("invalid_request", "Parameters belong into the body, not into the address.")
    try:
        text = body.decode("utf-8-sig").strip()
        pairs = _json_pairs(text) if text.startswith("{") else _form_pairs(text)
    except (ValueError, RecursionError):
        raise Refused("invalid_request", "The body is neither a form nor a JSON object.") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise Refused("invalid_request", "A parameter is repeated.")
    return Asked({name: value for name, value in pairs if name in KNOWN and _given(value)})


def _given(value: object) -> bool:
    if value in (None, ""):
        return False
    if not isinstance(value, str) or not VISIBLE.fullmatch(value):
        raise Refused("invalid_request", "A parameter is not a string of visible ASCII, or is too long.")
    return True


def _json_pairs(text: str) -> list[tuple[str, Any]]:
    """The members in their order, so that repeated ones are seen."""
    pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    return pairs


def _form_pairs(text: str) -> list[tuple[str, Any]]:
    return [*parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")]


def read_credentials(headers: list[str], asked: Asked) -> Credentials:
    """Who asks, by the Authorization header or the body, never both (RFC 6749 2.3); raises Refused."""
    if len(headers) > 1:
        raise Refused("invalid_request", "There is more than one Authorization header.")
    client_id, secret = asked.parameters.get("client_id"), asked.parameters.get("client_secret")
    # A Bearer header authenticates no client; some libraries send one along.
    if headers and not headers[0].lower().startswith("bearer "):
        return _with_header(_from_header(headers[0]), client_id, secret)
    if client_id is None:
        raise Refused("invalid_client", "No client is named.")
    return Credentials(client_id, Secret(secret) if secret is not None else None, basic=False)


def _with_header(found: Credentials, client_id: str | None, secret: str | None) -> Credentials:
    if secret is not None or client_id not in (None, found.client_id):
        raise Refused("invalid_request", "The client is named in two ways at once.")
    return found


def _from_header(header: str) -> Credentials:
    form = BASIC.fullmatch(header)
    if form is None:
        raise Refused("invalid_client", "The Authorization header is not Basic.", basic=True)
    try:
        client_id, colon, secret = base64.b64decode(form[1], validate=True).decode().partition(":")
        # Both were form-encoded before they were put together (RFC 6749 2.3.1).
        client_id, secret = (unquote_plus(part, errors="strict") for part in (client_id, secret))
    except (ValueError, binascii.Error):
        colon = client_id = secret = ""
    if not colon or not VISIBLE.fullmatch(client_id) or (secret and not VISIBLE.fullmatch(secret)):
        raise Refused("invalid_client", "The Authorization header is malformed.", basic=True)
    return Credentials(client_id, Secret(secret) if secret else None, basic=True)
