"""The cookie that binds a trip to a provider, or a sign-in, to the browser that began it."""

import hmac

from aiohttp import web

from broker import oauth
from broker.model import Secret

NAME = "broker_browser"
LIFE = 3600
PERSON, PERSON_LIFE = "broker_person", 600
"""Who has just been asked in this browser, for the install that follows."""
LENGTH = 43


class BrowserCookie:
    """One random value a browser, `__Host-` and Secure on https, HttpOnly, SameSite=Lax; `life` in seconds."""

    def __init__(self, *, https: bool, name: str = NAME, life: int = LIFE) -> None:
        self._https, self._life = https, life
        self._name = f"__Host-{name}" if https else name

    def read(self, request: web.Request) -> Secret | None:
        """The browser's value, or None where cookies are off or it has none yet."""
        value = request.cookies.get(self._name, "")
        return Secret(value) if len(value) == LENGTH and value.isascii() else None

    def read_or_new(self, request: web.Request) -> Secret:
        """The browser's value, or a new one."""
        return self.read(request) or oauth.new_secret()

    def write(self, response: web.StreamResponse, browser: Secret) -> None:
        response.set_cookie(
            self._name,
            browser.reveal(),
            max_age=self._life,
            path="/",
            secure=self._https,
            httponly=True,
            samesite="Lax",
        )

    def clear(self, response: web.StreamResponse) -> None:
        response.del_cookie(self._name, path="/", secure=self._https, httponly=True, samesite="Lax")


def is_same_browser(browser: Secret | None, stored_hash: str) -> bool:
    """Whether the browser is the one whose hash was stored."""
    return browser is not None and hmac.compare_digest(oauth.hashed(browser), stored_hash)
