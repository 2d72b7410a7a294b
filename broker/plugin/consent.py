"""Read an authorization request (RFC 6749 4.1.1), ask a user for consent, and issue a code."""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from urllib.parse import parse_qsl

import structlog

from broker import oauth
from broker.context import Context
from broker.errors import InvalidRequest, Overloaded
from broker.http.browser import Kept
from broker.http.pages import Page, ShownError
from broker.login import Browser, Browsers
from broker.model import Caller, ConnectCode, Permission, PluginCode, PluginConsent, RememberedPerson, Secret
from broker.plugin.clients import REDIRECT_ERRORS, VISIBLE, Clients, RedirectError, as_caller

log = structlog.get_logger()
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""S256 of anything: 32 bytes in base64url without padding (RFC 7636 4.2)."""
MOST_FIELDS = 1000
RECOGNIZED = (
    *("client_id", "redirect_uri", "response_type", "scope", "state"),
    *("code_challenge", "code_challenge_method"),
)
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base32, without letters that look like other characters."""
MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1"})
CONNECT_CODE_LIFE = 600.0
HANDLE = 4
LENGTH = 12
"""A connect code has 12 characters of 5 bits; the first 4 find it in the store, the other 40 bits prove it."""
ATTEMPTS = 5
SUBJECT = re.compile(r"\S(.{0,253}\S)?")
KEPT_FOR = "consent"
CONSENT_LIFE = 600.0
CODE_LIFE = 60.0
REMEMBERED_FOR = 600.0
OVER = Page(
    title="This question is over",
    tone="bad",
    lines=(
        "It was answered already, too many wrong codes were typed, ten minutes have passed, or this browser did not"
        " keep our cookie.",
    ),
    hint="If the app you came from says that it is connected, all is well. Else begin again there.",
    status=410,
)


class WrongConnectCode(Exception):
    """The typed text is not a valid connect code."""


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A valid authorization request. Its fields are those of a PluginConsent that come from the client."""

    client: str
    """The name of its table in the configuration."""
    redirect_uri: str
    redirect_uri_given: bool
    state: str | None
    scope: str
    challenge: str | None

    def to_text(self) -> str:
        """Return it as JSON, for the browser's cookie."""
        return json.dumps(astuple(self))


@dataclass(frozen=True, slots=True)
class ErrorRedirect:
    """A request that is wrong or denied, which the client learns from a redirect."""

    redirect_uri: str
    state: str | None
    error: RedirectError

    def location(self, issuer: str) -> str:
        """Return the URL of the redirect."""
        told = {"error": self.error, "error_description": REDIRECT_ERRORS[self.error]}
        return answer_location(self.redirect_uri, told, self.state, issuer)


def read_authorization_request(raw_query: str, clients: Clients) -> AuthorizationRequest | ErrorRedirect:
    """Return a valid authorization request, or the redirect that tells what is wrong with it.

    Raises ShownError if the client or its redirect URI is unknown: then nothing must be redirected.
    """
    try:
        pairs = parse_qsl(raw_query, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        raise _unredirectable(
            "This address is incomplete", "Something is missing from it, or it is garbled."
        ) from None
    parameters = dict(pairs)
    # Unrecognized parameters are ignored (RFC 6749 3.1), repeated or not.
    names = [name for name, _ in pairs]
    repeated = {name for name in RECOGNIZED if names.count(name) > 1}
    client = None if "client_id" in repeated else clients.by_id.get(parameters.get("client_id", ""))
    if client is None:
        raise _unredirectable(
            "We do not know who sent you",
            "The app that sent you here is not registered with this service, so nothing was allowed.",
        )
    given = parameters.get("redirect_uri")
    # A single registered redirect URI need not be given (RFC 6749 3.1.2.3).
    redirect_uri = given or (client.redirect_uris[0] if len(client.redirect_uris) == 1 else "")
    if "redirect_uri" in repeated or redirect_uri not in client.redirect_uris:
        raise _unredirectable(
            "This app may not ask for that address",
            "You would have been sent back to an address that is not registered for the app, so nothing was allowed.",
        )
    state, response_type = parameters.get("state"), parameters.get("response_type")
    method, challenge = parameters.get("code_challenge_method"), parameters.get("code_challenge")
    if repeated or (state is not None and not VISIBLE.fullmatch(state)):
        return ErrorRedirect(redirect_uri, None, "invalid_request")
    if response_type != "code":
        error: RedirectError = "unsupported_response_type" if response_type else "invalid_request"
        return ErrorRedirect(redirect_uri, state, error)
    if (challenge, method) != (None, None) and (method != "S256" or not CHALLENGE.fullmatch(challenge or "")):
        # A challenge without a method would be `plain`, which proves nothing (RFC 9700 2.1.1).
        return ErrorRedirect(redirect_uri, state, "invalid_request")
    # Kit writes scopes with spaces or with commas; its documents say both.
    asked = parameters.get("scope")
    wanted = set(client.scopes) if asked is None else set(re.split(r"[ ,]+", asked.strip(" ,"))) - {""}
    if not wanted <= set(client.scopes):
        return ErrorRedirect(redirect_uri, state, "invalid_scope")
    scope = " ".join(one for one in client.scopes if one in wanted)
    return AuthorizationRequest(client.name, redirect_uri, given is not None, state, scope, challenge)


def request_from_text(text: str, clients: Clients) -> AuthorizationRequest | None:
    """Return a kept request; None if its client, redirect URI or scope was removed from the configuration."""
    ask = AuthorizationRequest(*json.loads(text))
    client = clients.by_name.get(ask.client)
    if client is None or ask.redirect_uri not in client.redirect_uris:
        return None
    return ask if set(ask.scope.split()) <= set(client.scopes) else None


def answer_location(redirect_uri: str, members: dict[str, str], state: str | None, issuer: str) -> str:
    """Return the redirect URI with an answer added to its query (RFC 6749 3.1.2).

    `iss` is added, so that clients do not take the answer for another server's (RFC 9207).
    """
    echoed = {} if state is None else {"state": state}
    return oauth.with_query(redirect_uri, {**members, **echoed, "iss": issuer})


def _unredirectable(title: str, line: str) -> ShownError:
    hint = "Whoever runs the app has to compare its client id and redirect URI with what was agreed here."
    return ShownError(Page(title=title, tone="bad", lines=(line,), hint=hint, status=400))


class ConsentService:
    """The service for consent to authorization requests, and for connect codes.

    A connect code identifies a user where the company has no sign-in.
    """

    def __init__(self, context: Context, *, clients: Clients, browsers: Browsers) -> None:
        self._context, self._clients, self._browsers = context, clients, browsers
        self._store, self._clock = context.stores.plugin, context.steady
        self.issuer = browsers.public_url
        self._being_decided: set[str] = set()

    async def connect_code(self, caller: Caller, subject: str, *, request_id: str) -> tuple[Secret, float]:
        """Make a connect code for a user; return it and when it expires. Raises InvalidRequest, Forbidden."""
        if not SUBJECT.fullmatch(subject) or not subject.isprintable():
            raise InvalidRequest("subject is your name for the user, 1 to 255 printable characters")
        authorizer = self._context.authorizer
        await authorizer.require(caller, Permission.PLUGIN, None, request_id=request_id)
        expires_at = self._clock.now() + CONNECT_CODE_LIFE
        for _ in range(ATTEMPTS):
            text = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
            code = ConnectCode(text[:HANDLE], self._digest(text), subject, caller.name, expires_at)
            if await self._store.add_connect_code(code):
                detail = f"subject {subject}"
                await authorizer.note(caller, "plugin.connect_code", None, detail, request_id=request_id)
                return Secret("-".join(text[at : at + 4] for at in range(0, LENGTH, 4))), expires_at
        raise Overloaded("too many connect codes are open at once; try again", retry_after=60)

    async def begin(self, ask: AuthorizationRequest, browser: Secret, subject: str) -> Secret:
        """Store a consent for a user who has signed in; return its handle, which is also its CSRF token."""
        handle = oauth.new_secret()
        await self._store.begin_consent(self._new(ask, handle, browser, subject))
        return handle

    def begin_unknown(
        self, ask: AuthorizationRequest, browser: Secret
    ) -> tuple[Secret, PluginConsent, Kept] | None:
        """Begin a consent for a user whom a connect code will identify. It is kept in a cookie, not stored.
        None: the request is too long for a cookie."""
        handle = oauth.new_secret()
        consent = self._new(ask, handle, browser, None)
        kept = self._browsers.kept.keep(KEPT_FOR, handle, [ask.to_text()], until=consent.expires_at)
        return None if kept is None else (handle, consent, kept)

    async def find(self, handle: Secret, browser: Browser) -> PluginConsent:
        """Return the consent while it is open in this browser. Raises ShownError."""
        consent = await self._store.consent(oauth.hashed(handle), self._clock.now())
        if consent is None:
            kept = await self._browsers.kept.find(KEPT_FOR, handle, browser.cookies)
            ask = None if kept is None else request_from_text(kept[1], self._clients)
            if kept is None or ask is None or await self._store.is_claimed(oauth.hashed(handle)):
                raise ShownError(OVER)
            return replace(self._new(ask, handle, browser.check(), None), expires_at=kept[0])
        browser.check(consent.browser_hash)
        client = self._clients.by_name.get(consent.client)
        if client is None or consent.redirect_uri not in client.redirect_uris:
            raise ShownError(OVER)
        return consent

    @contextmanager
    def deciding(self, handle: Secret) -> Iterator[None]:
        """Allow one decision about a consent at a time, so that a second click fails. Raises ShownError."""
        hash_ = oauth.hashed(handle)
        if hash_ in self._being_decided:
            raise ShownError(OVER)
        self._being_decided.add(hash_)
        try:
            yield
        finally:
            self._being_decided.discard(hash_)

    async def store(self, consent: PluginConsent, site: str) -> None:
        """Store a consent that only a cookie has kept, once, before it is decided. Raises ShownError, RateLimited."""
        if consent.subject is not None or await self._store.consent(consent.hash, self._clock.now()):
            return
        self._browsers.unknown_users.admit(site)
        if not await self._store.claim_consent(consent):
            raise ShownError(OVER)

    async def deny(self, consent: PluginConsent, *, request_id: str) -> str:
        """Deny access; return the URL of the redirect. Raises ShownError."""
        await self._announce(consent, consent.subject, "plugin.deny", request_id)
        if not await self._store.deny(consent.hash, self._clock.now()):
            raise ShownError(OVER)
        return ErrorRedirect(consent.redirect_uri, consent.state, "access_denied").location(self.issuer)

    async def allow(
        self, consent: PluginConsent, typed: str | None, *, request_id: str
    ) -> tuple[str, Secret]:
        """Allow access; return the URL of the redirect with a code, and a cookie for the install that follows.

        Raises WrongConnectCode, ShownError.
        """
        subject, handle, now = consent.subject, None, self._clock.now()
        if subject is None:
            text = re.sub(r"[\s-]", "", (typed or "")[:64]).upper().translate(MISREAD)
            is_code = len(text) == LENGTH and set(text) <= set(ALPHABET)
            # A text that cannot be a code counts as a try too.
            handle, digest = (text[:HANDLE], self._digest(text)) if is_code else ("", "")
            found = await self._store.try_connect_code(consent.hash, handle, digest, now)
            if found is None:
                log.warning("plugin.wrong_connect_code", client=consent.client)
                raise WrongConnectCode
            subject, handle = found.subject, found.handle
        secret, person = oauth.new_secret(), oauth.new_secret()
        code = PluginCode(
            hash=oauth.hashed(secret),
            client=consent.client,
            subject=subject,
            redirect_uri=consent.redirect_uri if consent.redirect_uri_given else None,
            scope=consent.scope,
            challenge=consent.challenge,
            expires_at=now + CODE_LIFE,
        )
        remembered = RememberedPerson(
            oauth.hashed(person), consent.browser_hash, subject, code.hash, now + REMEMBERED_FOR
        )
        await self._announce(consent, subject, "plugin.allow", request_id)
        if not await self._store.allow(consent.hash, code, remembered, connect_code=handle, now=now):
            raise ShownError(OVER)
        members = {"code": secret.reveal()}
        return answer_location(consent.redirect_uri, members, consent.state, self.issuer), person

    def _new(
        self, ask: AuthorizationRequest, handle: Secret, browser: Secret, subject: str | None
    ) -> PluginConsent:
        return PluginConsent(
            hash=oauth.hashed(handle),
            browser_hash=oauth.hashed(browser),
            subject=subject,
            expires_at=self._clock.now() + CONSENT_LIFE,
            **asdict(ask),
        )

    def _digest(self, code: str) -> str:
        """Return a keyed hash: a plain one of so few bits could be reversed by a reader of the store."""
        return self._context.keyring.derive("connect code", code.encode()).hex()

    async def _announce(
        self, consent: PluginConsent, subject: str | None, action: str, request_id: str
    ) -> None:
        if client := self._clients.by_name.get(consent.client):
            detail = f"subject {subject}, scope {consent.scope!r}"
            await self._context.authorizer.announce(
                as_caller(client), action, None, detail, request_id=request_id
            )
