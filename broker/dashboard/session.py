"""Signs operators in to the dashboard: a one-time link from the command line, then twelve hours in one browser.

The cookie is a random text whose hash is in the store, so sessions can be ended, and nobody can make one from the
encryption keys. A browser sends a cookie to every port of a host, whatever program listens there. So without TLS the
pages are below a random path that only this browser knows, and the cookie is sent only below that path.
"""

import hmac
import json
import secrets
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlsplit

import jwt
from aiohttp import web

from broker import oauth
from broker.context import Context
from broker.dashboard.service import Done
from broker.errors import StorageUnavailable
from broker.http.edge import BASE
from broker.model import Caller, PendingLogin, Permission, Secret

PURPOSE = "dashboard"
SIGNED_IN = "dashboard session"
LINK_LIFE = 60.0
SESSION_LIFE = 12 * 3600
COOKIE = "broker_dashboard"
DONE, DONE_LIFE = "_done", 60
"""The suffix and the lifetime of a second cookie, which has the result of the last action."""
ALGORITHM = "HS256"
REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that is signed in."""

    actor: Caller
    id: str
    """The hash of the session's cookie."""
    expires_at: float


class Sessions:
    """Makes sign-in links, and finds the session of a request's cookie; all replicas share the sessions."""

    def __init__(self, context: Context, url: str) -> None:
        self._store, self._keyring, self._clock = context.stores.installs, context.keyring, context.clock
        address = urlsplit(url)
        self._https = address.scheme == "https"
        port = address.port or (443 if self._https else 80)
        # Several brokers on one host must not overwrite each other's cookie.
        self._cookie = f"{'__Host-' if self._https else ''}{COOKIE}_{port}"
        self._kept: dict[str, PendingLogin] = {}
        """Links that could not be stored: an operator must be able to sign in when the disk is full."""
        self._remembered: dict[str, Session] = {}
        """Sessions in memory, used while the store is unavailable."""
        self._unstored: set[str] = set()
        """Ids of sessions that could not be stored."""

    async def new_link(self, actor: Caller) -> Secret:
        """Return the secret of a link that signs in `actor`, once, within a minute."""
        secret, now = oauth.new_secret(), self._clock.now()
        link = PendingLogin(
            challenge_hash=oauth.hashed(secret),
            browser_hash="",
            purpose=PURPOSE,
            payload=json.dumps(actor.name),
            expires_at=now + LINK_LIFE,
        )
        try:
            await self._store.begin_login(link)
        except StorageUnavailable:
            self._kept = {hash_: kept for hash_, kept in self._kept.items() if kept.expires_at > now}
            self._kept[link.challenge_hash] = link
        return secret

    async def sign_in(self, link: Secret, response: web.StreamResponse) -> str | None:
        """Use up a link, set the cookie and return the prefix of its path (BASE); None if the link is not valid."""
        login = await self._take(oauth.hashed(link))
        if login is None or login.purpose != PURPOSE:
            return None
        cookie, base = oauth.new_secret(), "" if self._https else f"/~{secrets.token_hex(16)}"
        signed_in = replace(
            login,
            challenge_hash=oauth.hashed(cookie),
            purpose=SIGNED_IN,
            expires_at=self._clock.now() + SESSION_LIFE,
        )
        self._remember(_session(signed_in))
        try:
            await self._store.begin_login(signed_in)
        except StorageUnavailable:
            self._unstored.add(signed_in.challenge_hash)
        self._set(response, self._cookie, cookie.reveal(), SESSION_LIFE, base)
        return base

    async def _take(self, link_hash: str) -> PendingLogin | None:
        now = self._clock.now()
        kept = self._kept.pop(link_hash, None)
        if kept is not None:
            return kept if kept.expires_at > now else None
        return await self._store.take_login(link_hash, now)

    async def sign_out(self, request: web.Request, response: web.StreamResponse, session: Session) -> None:
        """End the session and delete its cookie; raises StorageUnavailable."""
        await self.end(session.id)
        self._set(response, self._cookie, "", 0, request.get(BASE, ""))

    async def end(self, id_: str | None = None) -> int:
        """End one session, or all, and return their number.

        Raises StorageUnavailable, after the sessions in memory have ended.
        """
        ended = [one for one in self._remembered if id_ in {None, one}]
        for one in ended:
            del self._remembered[one]
            self._unstored.discard(one)
        return max(len(ended), await self._store.end_logins(SIGNED_IN, id_))

    async def sessions(self) -> list[Session]:
        """Return the sessions that have not ended, the newest first; raises StorageUnavailable."""
        stored = {one.id: one for one in map(_session, await self._store.logins(SIGNED_IN))}
        current = [
            one for one in {**self._remembered, **stored}.values() if one.expires_at > self._clock.now()
        ]
        return sorted(current, key=lambda one: -one.expires_at)

    async def read(self, request: web.Request) -> Session | None:
        """Return the browser's session from the store, else from memory; None if nobody is signed in."""
        hash_ = self._hash(request)
        if hash_ is None:
            return None
        try:
            stored = await self._store.logins(SIGNED_IN, hash_)
        except StorageUnavailable:
            return self.remembered(request)
        if stored:
            self._remember(_session(stored[0]))
        elif hash_ not in self._unstored:
            self._remembered.pop(hash_, None)
        return self.remembered(request)

    def remembered(self, request: web.Request) -> Session | None:
        """Return the browser's session from memory, without reading the store."""
        session = self._remembered.get(self._hash(request) or "")
        return session if session is not None and session.expires_at > self._clock.now() else None

    def _hash(self, request: web.Request) -> str | None:
        cookie = request.cookies.get(self._cookie, "")
        return oauth.hashed(Secret(cookie)) if cookie else None

    def _remember(self, session: Session) -> None:
        self._remembered.pop(session.id, None)
        if len(self._remembered) >= REMEMBERED:
            oldest = next(iter(self._remembered))
            del self._remembered[oldest]
            self._unstored.discard(oldest)
        self._remembered[session.id] = session

    def keep(self, done: Done, request: web.Request, session: Session, response: web.StreamResponse) -> None:
        """Store the result of an action in a signed cookie, for the next page to show."""
        claims = {**asdict(done), "exp": int(self._clock.now()) + DONE_LIFE}
        token = jwt.encode(claims, self._done_key(session), algorithm=ALGORITHM)
        self._set(response, self._cookie + DONE, token, DONE_LIFE, request.get(BASE, ""))

    def kept(self, request: web.Request, session: Session) -> Done | None:
        """Return the result of the last action, if no page has shown it yet."""
        try:
            claims = jwt.decode(
                request.cookies.get(self._cookie + DONE, ""),
                self._done_key(session),
                algorithms=[ALGORITHM],
                # The time is compared below, by the clock that was passed in.
                options={"require": ["exp"], "verify_exp": False},
            )
        except (jwt.PyJWTError, ValueError):
            return None
        if claims["exp"] <= self._clock.now():
            return None
        return Done(claims["sentence"], good=claims["good"], link=claims["link"], gone=claims["gone"])

    def forget_kept(self, request: web.Request, response: web.StreamResponse) -> None:
        """Delete the cookie with the result, so that it is shown once."""
        self._set(response, self._cookie + DONE, "", 0, request.get(BASE, ""))

    def _set(self, response: web.StreamResponse, name: str, value: str, life: int, base: str) -> None:
        """Set a cookie for the session's path; a `life` of 0 deletes it."""
        response.set_cookie(
            name,
            value,
            max_age=life,
            path=base or "/",
            secure=self._https,
            httponly=True,
            samesite="Strict",
        )

    def _done_key(self, session: Session) -> bytes:
        return self._keyring.derive("dashboard done", session.id.encode())

    def form_token(self, session: Session) -> str:
        """Return the CSRF token of this session's forms."""
        return self._keyring.derive("dashboard form", session.id.encode()).hex()

    def is_own_form(self, session: Session, token: str) -> bool:
        """Return whether the CSRF token of a form belongs to the session."""
        return hmac.compare_digest(self.form_token(session).encode(), token.encode())


def _session(login: PendingLogin) -> Session:
    return Session(operator_of(str(json.loads(login.payload))), login.challenge_hash, login.expires_at)


def operator_of(name: str) -> Caller:
    """Return the caller for the operator who made a link; it may do everything."""
    return Caller(name, ("*",), frozenset(Permission), credential="dashboard")
