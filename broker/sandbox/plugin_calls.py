"""Kit's calls to the broker's OAuth server for plugins, and what Kit demands of the answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from yarl import URL

PATIENCE = aiohttp.ClientTimeout(total=10)
TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
HOME = frozenset({"127.0.0.1", "localhost", "::1"})
REQUIRED = ("access_token", "refresh_token", "created_at", "expires_in")


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back."""

    status: int
    document: Mapping[str, Any]
    complaint: str | None
    """What Kit would stumble over; None where all is well."""


async def ask(url: str, parameters: Mapping[str, str], *, body: str, content_type: str) -> Heard:
    """One POST. `body` and `content_type` are `json` or `form`, and need not agree: Kit's samples do not."""
    if URL(url).host not in HOME:
        return Heard(0, {}, f"{url} is not on this machine")
    data = json.dumps(parameters) if body == "json" else urlencode(parameters)
    headers = {"Content-Type": TYPES[content_type], "Accept": "application/json"}
    try:
        async with (
            aiohttp.ClientSession(timeout=PATIENCE) as session,
            session.post(url, data=data.encode(), headers=headers, allow_redirects=False) as answer,
        ):
            return _read(answer.status, answer.headers, await answer.read())
    except (aiohttp.ClientError, TimeoutError) as error:
        return Heard(0, {}, f"no answer ({type(error).__name__})")


async def metadata(base: str) -> Mapping[str, Any] | None:
    """What the server says of itself (RFC 8414); None where it is none."""
    url = f"{base}/.well-known/oauth-authorization-server"
    if URL(url).host not in HOME:
        return None
    try:
        async with (
            aiohttp.ClientSession(timeout=PATIENCE) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            return _read(answer.status, answer.headers, await answer.read()).document or None
    except (aiohttp.ClientError, TimeoutError):
        return None


def token_complaint(heard: Heard) -> str | None:
    """Kit needs four members, two of them integers (developers.kit.com, "OAuth authorization")."""
    if heard.complaint is not None:
        return heard.complaint
    if heard.status != 200:
        return f"status {heard.status}: {heard.document.get('error', 'no error given')}"
    missing = [name for name in REQUIRED if name not in heard.document]
    if missing:
        return f"missing: {', '.join(missing)}"
    for name in ("created_at", "expires_in"):
        value = heard.document[name]
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            return f"{name} is no positive integer"
    for name in ("access_token", "refresh_token"):
        if not isinstance(heard.document[name], str) or not heard.document[name]:
            return f"{name} is no string"
    return None if heard.document.get("token_type") == "Bearer" else "token_type is not Bearer"


def _read(status: int, headers: Mapping[str, str], raw: bytes) -> Heard:
    if "no-store" not in headers.get("Cache-Control", ""):
        return Heard(status, {}, "the answer may be cached")
    if headers.get("Content-Type", "").partition(";")[0] != "application/json":
        return Heard(status, {}, "the answer is not application/json")
    try:
        document = json.loads(raw)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return Heard(status, {}, "the answer is no JSON object")
    return Heard(status, document, None)
