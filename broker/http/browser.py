"""The cookies of the public listener: a random id of the browser, and requests of users before they sign in."""

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
"""The cookie and the lifetime of the user who has just signed in, for the install that follows."""
LENGTH = 43
KEPT = "broker_flow"
KEPT_BYTES = 1024
"""The most bytes of a request's cookie, name and value together."""
KEPT_AT_ONCE = 4
MOVED = "moved"
"""The query parameter of a redirect to the public address. A proxy may rewrite `Host`, so it is sent only once."""


class BrowserCookie:
    """A cookie with a random id of the browser: HttpOnly, SameSite=Lax, with https also Secure and `__Host-`."""

    def __init__(self, *, https: bool, name: str = NAME, life: int = LIFE) -> None:
        self._life, self._scope = life, _scope(https)
        self._name = f"__Host-{name}" if https else name

    def read(self, request: web.Request) -> Secret | None:
        """Return the browser's id, or None if it has none or sends no cookies."""
        value = request.cookies.get(self._name, "")
        return Secret(value) if len(value) == LENGTH and value.isascii() else None

    def read_or_new(self, request: web.Request) -> Secret:
        """Return the browser's id, or a new one."""
        return self.read(request) or oauth.new_secret()

    def write(self, response: web.StreamResponse, browser: Secret) -> None:
        """Set the cookie on an answer."""
        response.set_cookie(self._name, browser.reveal(), max_age=self._life, **self._scope)

    def clear(self, response: web.StreamResponse) -> None:
        """Delete the cookie."""
        response.del_cookie(self._name, **self._scope)


def _scope(https: bool) -> dict[str, Any]:
    """Return the attributes of a cookie except its lifetime."""
    return {"path": "/", "secure": https, "httponly": True, "samesite": "Lax"}


def is_same_browser(browser: Secret | None, stored_hash: str) -> bool:
    """Return whether the id of the browser has the stored hash."""
    return browser is not None and oauth.is_same(oauth.hashed(browser), stored_hash)


@dataclass(frozen=True, slots=True)
class Kept:
    """A request in a cookie, which the browser keeps until it returns from the provider or the login."""

    name: str
    value: str = field(repr=False)
    life: int


class KeptRequests:
    """Stores the requests of anonymous users in encrypted cookies, so that they write nothing to the store.

    A request expires. It is found by the secret (state, challenge, handle) that returns with the browser. It grants
    no rights: somebody who could forge one could also have started the request. Every broker on the same store can
    decrypt it, even after the data key was replaced.
    """

    def __init__(
        self, *, keyring: Keyring, catch_up: Callable[[], Awaitable[None]], clock: Clock, https: bool
    ) -> None:
        self._keyring, self._clock, self._scope = keyring, clock, _scope(https)
        self._catch_up = catch_up
        """Reads the data keys from the store again; raises StorageUnavailable."""
        self._prefix = f"__Host-{KEPT}" if https else KEPT

    def keep(self, purpose: str, handle: Secret, fields: Sequence[object], *, until: float) -> Kept | None:
        """Return the cookie for a request, or None if the request is too large for one."""
        name = f"{self._prefix}_{int(until)}_{_tag(handle)}"
        packed = zlib.compress(json.dumps([until, *fields], separators=(",", ":")).encode(), 9)
        encrypted = self._keyring.encrypt_apart(_associated(purpose, handle), packed)
        value = _text(encrypted)
        if len(name) + len(value) > KEPT_BYTES:
            return None
        return Kept(name, value, max(1, int(until - self._clock.now())))

    async def find(self, purpose: str, handle: Secret, cookies: Mapping[str, str]) -> list[Any] | None:
        """Return the expiry and the fields of a request; None if the browser has none or it has expired."""
        end = f"_{_tag(handle)}"
        value = next((cookies[name] for name in self._names(cookies) if name.endswith(end)), "")
        if not 0 < len(value) <= KEPT_BYTES:
            return None
        try:
            encrypted = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
            if _text(encrypted) != value:
                # The decoder ignores some bits of the last letter, so other texts would decode to the same bytes.
                return None
            try:
                packed = self._keyring.decrypt_apart(_associated(purpose, handle), encrypted)
            except UnknownKey:
                # Another broker may have added a key since.
                await self._catch_up()
                packed = self._keyring.decrypt_apart(_associated(purpose, handle), encrypted)
        except (DecryptionFailed, binascii.Error, ValueError):
            return None
        found: list[Any] = json.loads(zlib.decompress(packed))
        return found if found[0] > self._clock.now() else None

    def write(self, request: web.Request, response: web.StreamResponse, kept: Kept) -> None:
        """Set the cookie of a request, and delete the oldest ones if there are too many."""
        others = sorted(name for name in self._names(request.cookies) if name != kept.name)
        for name in others[: max(0, len(others) - KEPT_AT_ONCE + 1)]:
            response.del_cookie(name, **self._scope)
        response.set_cookie(kept.name, kept.value, max_age=kept.life, **self._scope)

    def _names(self, cookies: Mapping[str, str]) -> list[str]:
        return [name for name in cookies if name.startswith(f"{self._prefix}_")]


def is_elsewhere(request: web.Request, public_url: str) -> bool:
    """Return whether the request has another host than `public_url`, where the cookies would not be sent."""
    host = request.headers.get("Host")
    return host is not None and MOVED not in request.query and _host(f"http://{host}") != _host(public_url)


def moved(public_url: str, path: str, query: str) -> web.Response:
    """Redirect a browser to the same path at the public address."""
    location = f"{public_url}{path}?{'&'.join(filter(None, (f'{MOVED}=1', query)))}"
    return web.Response(status=302, headers={"Location": location, "Referrer-Policy": "no-referrer"})


def _host(url: str) -> tuple[str | None, int | None]:
    """Return the host and the port of a URL, without a default port."""
    try:
        parts = urlsplit(url)
        return (parts.hostname or "").rstrip("."), None if parts.port in (80, 443) else parts.port
    except ValueError:
        return None, None


def _tag(handle: Secret) -> str:
    return oauth.hashed(handle)[:16]


def _associated(purpose: str, handle: Secret) -> str:
    return f"kept {purpose} {oauth.hashed(handle)}"


def _text(encrypted: bytes) -> str:
    return base64.urlsafe_b64encode(encrypted).rstrip(b"=").decode()
