"""Turns the credential of a request into a caller, before anything else is looked at."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from aiohttp import web

from broker.callers.configured import ConfiguredCallers
from broker.clock import Clock
from broker.errors import InvalidRequest, RateLimited, Unauthenticated
from broker.model import Caller, Secret
from broker.observe.metrics import Metrics
from broker.peers import Throttle, peer_name, peer_uid
from broker.web import CALLER, CLIENT, Handler, is_page, is_public

CREDENTIAL = re.compile(r"[Bb]earer +([\x21-\x7e]{1,4096})", re.ASCII)

BEARER = "Bearer "
WHAT_TO_DO = (
    " Send `Authorization: Bearer KEY`. An operator makes a key with: broker callers add NAME --account GLOB"
)
NO_KEY = f"No key was sent; is BROKER_KEY set?{WHAT_TO_DO}"
SCHEME = re.compile(
    r"(basic|digest|dpop|negotiate|token|apikey|aws4-hmac-sha256) .*", re.ASCII | re.IGNORECASE
)
"""Only these are named in an answer: whatever else stands first may be the key."""
NOTHING = frozenset({"none", "null", "nil", "undefined", "nan", "true", "false", "object"})
"""How languages write a variable that holds no text."""
UNREPLACED = re.compile(r"\$\w+|\$?[({<].*[)}>]|%\w+%|(BROKER_)?KEY|tbk_\W*", re.ASCII)
"""A variable, or a place for the key in an example, that nobody has filled in."""
QUOTES = ("'", '"', "`")


class Authenticator(Protocol):
    """One kind of credential."""

    def remembered(self, credential: str) -> Caller | None:
        """Return the caller that was authenticated with it a moment ago, None if that does not hold any more."""
        ...

    async def authenticate(self, credential: Secret) -> Caller | None:
        """Return the caller; None where this is not its kind of credential. Raises Unauthenticated."""
        ...


class Authentication:
    """The authentication of the internal listener: it refuses requests without a valid credential."""

    def __init__(
        self,
        *,
        authenticators: Sequence[Authenticator],
        configured: ConfiguredCallers,
        throttle: Throttle,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._authenticators, self._configured = authenticators, configured
        self._throttle, self._metrics, self._clock = throttle, metrics, clock

    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        """Authenticate every request, except those for routes marked public."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            is_no_page = request.match_info.http_exception is not None and is_page(request.path)
            if not is_public(request.match_info.handler) and not is_no_page:
                await self.admit(request)
            return await handler(request)

        return middleware

    def remembered(self, request: web.BaseRequest) -> Caller | None:
        """Return the caller that sent exactly this header a moment ago; None: `admit` has to look closer."""
        headers = request.headers.getall("Authorization", ())
        if len(headers) != 1 or not headers[0].startswith(BEARER) or not headers[0].isascii():
            return None
        text = headers[0][len(BEARER) :]
        for authenticator in self._authenticators:
            if (caller := authenticator.remembered(text)) is not None:
                return caller
        return None

    async def admit(self, request: web.Request) -> None:
        """Put the caller into the request; raises RateLimited, or Unauthenticated, which says if there was a key."""
        uid = peer_uid(request.transport)
        try:
            caller = await self._caller(request, uid)
        except Unauthenticated as exc:
            self._metrics.auth_failures.labels(exc.members.get("why", "unknown")).inc()
            wait = self._throttle.failed(peer_name(uid, request.get(CLIENT)))
            if wait is not None:
                raise RateLimited("too many requests without a valid credential", retry_after=wait) from exc
            why = exc.members.get("why")
            sent = request.headers.get("Authorization", "")
            raise Unauthenticated(NO_KEY if why == "missing" else _sent_instead(sent)) from exc
        request[CALLER] = caller.at(request.get(CLIENT))

    async def _caller(self, request: web.Request, uid: int | None) -> Caller:
        headers = request.headers.getall("Authorization", [])
        if not headers:
            # Only where no credential was shown at all: a bad one is refused, whoever shows it.
            known = None if uid is None else self._configured.edition.by_uid.get(uid)
            if known is None:
                raise Unauthenticated(why="missing")
            self._configured.note_use(known.name, self._clock.now())
            return known
        if len(headers) > 1:
            raise InvalidRequest("there is more than one Authorization header; send one")
        if headers[0].strip().lower() in ("", "bearer"):
            raise Unauthenticated(why="missing")
        form = CREDENTIAL.fullmatch(headers[0])
        if form is None:
            raise Unauthenticated(why="malformed")
        for authenticator in self._authenticators:
            caller = await authenticator.authenticate(Secret(form[1]))
            if caller is not None:
                return caller
        raise Unauthenticated(why="unknown")


def _sent_instead(header: str) -> str:
    """What was sent in the place of a key, where that can be told without quoting what may be one; else nothing."""
    if scheme := SCHEME.fullmatch(header):
        return f"The scheme {scheme[1]} is not taken here.{WHAT_TO_DO}"
    first, _, rest = header.partition(" ")
    if first not in ("Bearer", "bearer"):
        return f"The Authorization header does not begin with the word Bearer and a blank.{WHAT_TO_DO}"
    text = rest.strip()
    if text.lower() in NOTHING:
        return f"The word {text} was sent, and no key; is BROKER_KEY set?{WHAT_TO_DO}"
    if UNREPLACED.fullmatch(text):
        return (
            "The name of a variable or of a place for the key was sent, and not its value; a shell replaces it"
            f" between double quotes, not between single ones.{WHAT_TO_DO}"
        )
    if text.startswith(QUOTES) or text.endswith(QUOTES):
        return f"There are quotes around the key that was sent; leave them out.{WHAT_TO_DO}"
    if text.partition(" ")[0].lower() == "bearer":
        return f"The word Bearer is there twice.{WHAT_TO_DO}"
    return ""
