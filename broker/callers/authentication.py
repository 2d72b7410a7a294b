"""Authenticates the requests of the internal listener, and verifies API keys."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from broker import oauth
from broker.callers.configured import ConfiguredCallers
from broker.clock import Clock
from broker.errors import InvalidRequest, RateLimited, StorageUnavailable, Unauthenticated
from broker.http.edge import CALLER, CLIENT, Handler, is_page
from broker.http.operations import is_public
from broker.http.peers import Throttle, peer_name, peer_uid
from broker.model import Caller, CallerKey, Secret
from broker.observe.metrics import Metrics
from broker.single_flight import SingleFlight
from broker.store.callers import CallerStore

KEY = re.compile(r"tbk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
REMEMBERED = 10_000
REMEMBERED_FOR = 0.9
"""Seconds for which a key is cached. So a key that another process revokes stops working within a second."""
LOOK_AGAIN_AFTER = 0.6
"""Seconds after which a used key is looked up again in the background, before its cache entry expires."""
TRUSTED_FOR = 3600.0
"""Seconds for which a cached key is accepted while the store is unavailable."""
CREDENTIAL = re.compile(r"bearer +([\x21-\x7e]{1,4096})", re.ASCII | re.IGNORECASE)
"""The case of the scheme does not matter (RFC 9110, 11.1)."""

BEARER = "Bearer "
WHAT_TO_DO = (
    " Send `Authorization: Bearer KEY`. An operator makes a key with: broker callers add NAME --account GLOB"
)
NO_KEY = f"No key was sent; is BROKER_KEY set?{WHAT_TO_DO}"
SCHEME = re.compile(
    r"(basic|digest|dpop|negotiate|token|apikey|aws4-hmac-sha256) .*", re.ASCII | re.IGNORECASE
)
"""The schemes that an answer may name. Any other first word may be the key itself."""
NOTHING = frozenset({"none", "null", "nil", "undefined", "nan", "true", "false", "object"})
"""The texts that programming languages write for a variable without a value."""
UNREPLACED = re.compile(r"\$\w+|\$?[({<].*[)}>]|%\w+%|(BROKER_)?KEY|tbk_\W*", re.ASCII)
"""A variable or a placeholder of an example that was not replaced."""
QUOTES = ("'", '"', "`")


class Authenticator(Protocol):
    """Verifies one kind of credential."""

    def remembered(self, credential: str) -> Caller | None:
        """Return the caller cached for this credential, or None if there is none that is still valid."""
        ...

    async def authenticate(self, credential: Secret) -> Caller | None:
        """Return the caller, or None if the credential is of another kind; raises Unauthenticated."""
        ...


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    key: CallerKey
    asked_at: float
    """Monotonic time at which the store was asked."""


def key_text(key_id: str, secret: Secret) -> Secret:
    """Return the text of an API key. Its prefix lets secret scanners recognize it."""
    return Secret(f"tbk_{key_id}_{secret.reveal()}")


def key_hash(key: Secret) -> str:
    """Return the hash of a key for the store. A key has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(key.reveal().encode()).hexdigest()


class KeyAuthenticator:
    """Verifies the API keys that `broker callers add` makes."""

    def __init__(
        self, *, store: CallerStore, clock: Clock, is_overridden: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._store, self._clock = store, clock
        self._is_overridden = is_overridden
        """Returns whether the configuration has a caller of that name; then its keys in the store do not work."""
        self._remembered: dict[str, _Verified] = {}
        self._lookups = SingleFlight[str, _Verified]("key lookup")
        self.uses: dict[str, float] = {}
        """Last-used timestamps by key id that are not written to the store yet."""

    def remembered(self, credential: str) -> Caller | None:
        known = self._cached(credential)
        if known is None or self._refusal(known) is not None:
            return None
        self.uses[known.key.id] = self._clock.now()
        return known.caller

    async def authenticate(self, credential: Secret) -> Caller | None:
        text = credential.reveal()
        if not text.startswith("tbk_"):
            return None
        known = self._cached(text)
        if known is None:
            # Shielded, because others wait for the same lookup when this client disconnects.
            known = await asyncio.shield(self._look_up(text))
        if why := self._refusal(known):
            raise Unauthenticated(why=why)
        self.uses[known.key.id] = self._clock.now()
        return known.caller

    def forget(self) -> None:
        """Clear the cache because callers have changed. Results of running lookups are not cached."""
        self._remembered = {}
        self._lookups.forget()

    def _refusal(self, known: _Verified) -> str | None:
        """Return why a verified key is no longer valid, or None."""
        if known.key.expires_at is not None and known.key.expires_at <= self._clock.now():
            return "expired"
        return "overridden" if self._is_overridden(known.caller.name) else None

    def _cached(self, text: str) -> _Verified | None:
        """Return the cache entry of a key, and look the key up again before the entry expires."""
        known = self._remembered.get(text)
        age = 0.0 if known is None else self._clock.monotonic() - known.asked_at
        if known is None or age >= REMEMBERED_FOR:
            return None
        if age >= LOOK_AGAIN_AFTER:
            _ = self._look_up(text)
        return known

    def _look_up(self, text: str) -> "asyncio.Task[_Verified]":
        remembered = self._remembered
        return self._lookups.join(text, lambda: self._verify(text, remembered))

    async def _verify(self, text: str, remembered: dict[str, _Verified]) -> _Verified:
        """Verify a key with the store. `remembered` is the cache at the start, which `forget` may replace."""
        asked_at = self._clock.monotonic()
        form = KEY.fullmatch(text)
        try:
            found = await self._store.by_key(form[1]) if form else None
        except StorageUnavailable:
            known = remembered.get(text)
            if known is None or asked_at - known.asked_at > TRUSTED_FOR:
                raise
            return known
        remembered.pop(text, None)
        if found is None or not oauth.is_same(key_hash(Secret(text)), found[1].hash):
            raise Unauthenticated(why="unknown")
        if len(remembered) >= REMEMBERED:
            remembered.clear()
        record, key = found
        caller = Caller(record.name, record.accounts, record.permissions, credential=f"key {key.id}")
        verified = remembered[text] = _Verified(caller, key, asked_at)
        return verified


class Authentication:
    """The authentication of the internal listener. It refuses requests without a valid credential."""

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
        """Return the middleware that authenticates every request except those for public routes."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            is_no_page = request.match_info.http_exception is not None and is_page(request.path)
            if not is_public(request.match_info.handler) and not is_no_page:
                await self.admit(request)
            return await handler(request)

        return middleware

    def remembered(self, request: web.BaseRequest) -> Caller | None:
        """Return the caller cached for the request's header, or None if `admit` has to verify it."""
        headers = request.headers.getall("Authorization", ())
        if len(headers) != 1 or not headers[0].startswith(BEARER) or not headers[0].isascii():
            return None
        text = headers[0][len(BEARER) :]
        for authenticator in self._authenticators:
            if (caller := authenticator.remembered(text)) is not None:
                return caller
        return None

    async def admit(self, request: web.Request) -> None:
        """Set the request's caller; raises Unauthenticated, or RateLimited after too many failures."""
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
            # The uid counts only without any credential: an invalid one is refused, whoever sends it.
            known = None if uid is None else self._configured.edition.by_uid.get(uid)
            if known is None:
                raise Unauthenticated(why="missing")
            self._configured.uses[known.name] = self._clock.now()
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
    """Say what was sent instead of a key, without quoting what may be a key; return "" if that is unknown."""
    if scheme := SCHEME.fullmatch(header):
        return f"The scheme {scheme[1]} is not taken here.{WHAT_TO_DO}"
    first, _, rest = header.partition(" ")
    if first.lower() != "bearer":
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
