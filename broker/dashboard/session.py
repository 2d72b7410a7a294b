"""Signing in without passwords: a one-time link from the command line, then twelve hours in one browser."""

import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from typing import Any

import jwt
from aiohttp import web

from broker import oauth
from broker.clock import Clock
from broker.dashboard.actions import Done
from broker.errors import StorageUnavailable
from broker.keyring import Keyring
from broker.model import Caller, PendingLogin, Permission, Secret
from broker.store.interface import InstallStore

PURPOSE = "dashboard"
LINK_LIFE = 60.0
SESSION_LIFE = 12 * 3600
COOKIE = "broker_dashboard"
DONE, DONE_LIFE = "_done", 60
"""The cookie for what was done, beside that of the session."""
ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class Session:
    """One signed-in browser."""

    actor: Caller
    id: str
    expires_at: float


class Sessions:
    """Makes one-time links, and knows a browser again by its signed cookie; any replica can read it."""

    def __init__(self, *, store: InstallStore, keyring: Keyring, clock: Clock, https: bool) -> None:
        self._store, self._keyring, self._clock, self._https = store, keyring, clock, https
        self._cookie = f"__Host-{COOKIE}" if https else COOKIE
        self._kept: dict[str, PendingLogin] = {}
        """Links that could not be stored; a full disk is when an operator wants to look."""

    async def new_link(self, actor: Caller) -> Secret:
        """What opens the dashboard once, within a minute, in the name of `actor`."""
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

    async def sign_in(self, link: Secret, response: web.StreamResponse) -> bool:
        """Spend a link and set the cookie; False where it is unknown, used or too old."""
        login = await self._take(oauth.hashed(link))
        if login is None or login.purpose != PURPOSE:
            return False
        now = int(self._clock.now())
        claims = {"actor": json.loads(login.payload), "sid": secrets.token_hex(16), "exp": now + SESSION_LIFE}
        response.set_cookie(
            self._cookie,
            jwt.encode(claims, self._key(), algorithm=ALGORITHM),
            max_age=SESSION_LIFE,
            path="/",
            secure=self._https,
            httponly=True,
            samesite="Strict",
        )
        return True

    async def _take(self, link_hash: str) -> PendingLogin | None:
        now = self._clock.now()
        kept = self._kept.pop(link_hash, None)
        if kept is not None:
            return kept if kept.expires_at > now else None
        return await self._store.take_login(link_hash, now)

    def sign_out(self, response: web.StreamResponse) -> None:
        """Make the browser forget; the cookie is what signs in."""
        response.del_cookie(self._cookie, path="/", secure=self._https, httponly=True, samesite="Strict")

    def read(self, request: web.Request) -> Session | None:
        """Who is at the browser; None where nobody is signed in."""
        claims = self._claims(request, self._cookie)
        if claims is None or "actor" not in claims:
            return None
        return Session(operator_of(str(claims["actor"])), str(claims["sid"]), float(claims["exp"]))

    def keep(self, done: Done, session: Session, response: web.StreamResponse) -> None:
        """Let the browser hold what was done until the next page says it."""
        claims = {**asdict(done), "sid": session.id, "exp": int(self._clock.now()) + DONE_LIFE}
        response.set_cookie(
            self._cookie + DONE,
            jwt.encode(claims, self._key(), algorithm=ALGORITHM),
            max_age=DONE_LIFE,
            path="/",
            secure=self._https,
            httponly=True,
            samesite="Strict",
        )

    def kept(self, request: web.Request, session: Session) -> Done | None:
        """What was done just now in this session and was not shown yet."""
        claims = self._claims(request, self._cookie + DONE)
        if claims is None or claims.get("sid") != session.id:
            return None
        return Done(claims["sentence"], good=claims["good"], link=claims["link"], gone=claims["gone"])

    def forget_kept(self, response: web.StreamResponse) -> None:
        """Let it be shown once."""
        response.del_cookie(
            self._cookie + DONE, path="/", secure=self._https, httponly=True, samesite="Strict"
        )

    def form_token(self, session: Session) -> str:
        """What a form of this session must hold, so that no other site can send it."""
        return self._keyring.derive("dashboard form", session.id.encode()).hex()

    def is_own_form(self, session: Session, token: str) -> bool:
        return hmac.compare_digest(self.form_token(session).encode(), token.encode())

    def _claims(self, request: web.Request, cookie: str) -> dict[str, Any] | None:
        try:
            claims: dict[str, Any] = jwt.decode(
                request.cookies.get(cookie, ""),
                self._key(),
                algorithms=[ALGORITHM],
                # The time is compared below, by the clock that was passed in.
                options={"require": ["exp", "sid"], "verify_exp": False},
            )
        except (jwt.PyJWTError, ValueError):
            return None
        return claims if claims["exp"] > self._clock.now() else None

    def _key(self) -> bytes:
        return self._keyring.derive("dashboard session", b"")


def operator_of(name: str) -> Caller:
    """The operator who made the link, at the dashboard: may do everything, and is named in the audit."""
    return Caller(name, ("*",), frozenset(Permission), credential="dashboard")
