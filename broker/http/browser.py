"""What browsers keep for the broker: who they are, and requests of people whom nobody knows yet."""

import base64
import binascii
import json
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from broker import oauth
from broker.clock import Clock
from broker.encryption.keyring import DecryptionFailed, Keyring, UnknownKey
from broker.model import Secret

NAME = "broker_browser"
LIFE = 3600
PERSON, PERSON_LIFE = "broker_person", 600
"""Who has just been asked in this browser, for the install that follows."""
LENGTH = 43
KEPT = "broker_flow"
KEPT_BYTES = 1024
"""Name and value of a kept request."""
KEPT_AT_ONCE = 4
MOVED = "moved"
"""Marks a request that was sent to the public address; a proxy may rewrite `Host`, and it is sent there once."""


class BrowserCookie:
    """One random value a browser, `__Host-` and Secure on https, HttpOnly, SameSite=Lax; `life` in seconds."""

    def __init__(self, *, https: bool, name: str = NAME, life: int = LIFE) -> None:
        self._life, self._scope = life, _scope(https)
        self._name = f"__Host-{name}" if https else name

    def read(self, request: web.Request) -> Secret | None:
        """The browser's value, or None where cookies are off or it has none yet."""
        value = request.cookies.get(self._name, "")
        return Secret(value) if len(value) == LENGTH and value.isascii() else None

    def read_or_new(self, request: web.Request) -> Secret:
        """The browser's value, or a new one."""
        return self.read(request) or oauth.new_secret()

    def write(self, response: web.StreamResponse, browser: Secret) -> None:
        response.set_cookie(self._name, browser.reveal(), max_age=self._life, **self._scope)

    def clear(self, response: web.StreamResponse) -> None:
        response.del_cookie(self._name, **self._scope)


def _scope(https: bool) -> dict[str, Any]:
    """Who is sent a cookie, besides its life."""
    return {"path": "/", "secure": https, "httponly": True, "samesite": "Lax"}


def is_same_browser(browser: Secret | None, stored_hash: str) -> bool:
    """Whether the browser is the one whose hash was stored."""
    return browser is not None and oauth.is_same(oauth.hashed(browser), stored_hash)


@dataclass(frozen=True, slots=True)
class Kept:
    """A request that a browser keeps until it comes back."""

    name: str
    value: str = field(repr=False)
    life: int


class KeptRequests:
    """Requests of people whom nobody knows yet, as cookies, so that strangers write nothing to the store.

    Each is encrypted, ends by itself, and is found by the secret (state, challenge, handle) that comes back with the
    browser. It gives nobody any right: whoever could forge one could as well have begun the request. Any broker on
    the same store reads it, also after the data key was replaced.
    """

    def __init__(
        self, *, keyring: Keyring, catch_up: Callable[[], Awaitable[None]], clock: Clock, https: bool
    ) -> None:
        self._keyring, self._clock, self._scope = keyring, clock, _scope(https)
        self._catch_up = catch_up
        """Reads the keys in the store again; raises StorageUnavailable."""
        self._prefix = f"__Host-{KEPT}" if https else KEPT

    def keep(self, purpose: str, handle: Secret, fields: Sequence[object], *, until: float) -> Kept | None:
        """Return the cookie for a request; None where it does not fit into one."""
        name = f"{self._prefix}_{int(until)}_{_tag(handle)}"
        packed = zlib.compress(json.dumps([until, *fields], separators=(",", ":")).encode(), 9)
        sealed = self._keyring.encrypt_apart(_sealed_for(purpose, handle), packed)
        value = _text(sealed)
        if len(name) + len(value) > KEPT_BYTES:
            return None
        return Kept(name, value, max(1, int(until - self._clock.now())))

    async def find(self, purpose: str, handle: Secret, cookies: Mapping[str, str]) -> list[Any] | None:
        """Return when the request ends and its fields; None where the browser has none, or it has ended."""
        end = f"_{_tag(handle)}"
        value = next((cookies[name] for name in self._names(cookies) if name.endswith(end)), "")
        if not 0 < len(value) <= KEPT_BYTES:
            return None
        try:
            sealed = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
            if _text(sealed) != value:
                # The last letter has bits that the decoder ignores.
                return None
            try:
                packed = self._keyring.decrypt_apart(_sealed_for(purpose, handle), sealed)
            except UnknownKey:
                # Another broker may have made a key since.
                await self._catch_up()
                packed = self._keyring.decrypt_apart(_sealed_for(purpose, handle), sealed)
        except (DecryptionFailed, binascii.Error, ValueError):
            return None
        found: list[Any] = json.loads(zlib.decompress(packed))
        return found if found[0] > self._clock.now() else None

    def write(self, request: web.Request, response: web.StreamResponse, kept: Kept) -> None:
        """Give the browser the request, and let it forget the oldest of too many."""
        others = sorted(name for name in self._names(request.cookies) if name != kept.name)
        for name in others[: max(0, len(others) - KEPT_AT_ONCE + 1)]:
            response.del_cookie(name, **self._scope)
        response.set_cookie(kept.name, kept.value, max_age=kept.life, **self._scope)

    def _names(self, cookies: Mapping[str, str]) -> list[str]:
        return [name for name in cookies if name.startswith(f"{self._prefix}_")]


def is_elsewhere(request: web.Request, public_url: str) -> bool:
    """Whether a browser came by another name than the public one, to which it must go before it gets cookies."""
    host = request.headers.get("Host")
    return host is not None and MOVED not in request.query and _host(f"http://{host}") != _host(public_url)


def moved(public_url: str, path: str, query: str) -> web.Response:
    """Send a browser to the public address; what it asks for there was looked at already."""
    location = f"{public_url}{path}?{'&'.join(filter(None, (f'{MOVED}=1', query)))}"
    return web.Response(status=302, headers={"Location": location, "Referrer-Policy": "no-referrer"})


def _host(url: str) -> tuple[str | None, int | None]:
    """Name and port, without the port that the scheme has by itself."""
    try:
        parts = urlsplit(url)
        return (parts.hostname or "").rstrip("."), None if parts.port in (80, 443) else parts.port
    except ValueError:
        return None, None


def _tag(handle: Secret) -> str:
    return oauth.hashed(handle)[:16]


def _sealed_for(purpose: str, handle: Secret) -> str:
    return f"kept {purpose} {oauth.hashed(handle)}"


def _text(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()
