"""Asks a person whether a client may act for them; a yes becomes a code, and is remembered for a moment."""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from broker import oauth
from broker.callers.authorization import Authorizer
from broker.clock import Clock
from broker.encryption.keyring import Keyring
from broker.errors import InvalidRequest, Overloaded
from broker.http.browser import Kept, KeptRequests, is_same_browser
from broker.http.peers import UnknownUserLimits
from broker.model import Caller, ConnectCode, Permission, PluginCode, PluginConsent, RememberedPerson, Secret
from broker.plugin.authorize import Ask, Bounce, answer_location, ask_from_text, ask_to_text
from broker.plugin.clients import Clients
from broker.plugin.service import as_caller
from broker.store.plugin import PluginStore

log = structlog.get_logger()
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's: nothing in it is taken for something else."""
MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1"})
CONNECT_CODE_LIFE = 600.0
HANDLE = 4
LENGTH = 12
"""Twelve characters of five bits; the first four find the code, the other forty bits prove it."""
ATTEMPTS = 5
SUBJECT = re.compile(r"\S(.{0,253}\S)?")
KEPT_FOR = "consent"
CONSENT_LIFE = 600.0
CODE_LIFE = 60.0
REMEMBERED_FOR = 600.0
Gone = Literal["over", "cookies", "browser"]


@dataclass(frozen=True, slots=True)
class Typed:
    """A connect code as a person typed it."""

    handle: str
    digest: str


class ConnectCodes:
    """Connect codes say who a person is, where no app of the company can; makes them, and reads what people type."""

    def __init__(self, *, store: PluginStore, authorizer: Authorizer, keyring: Keyring, clock: Clock) -> None:
        self._store, self._authorizer, self._keyring, self._clock = store, authorizer, keyring, clock

    async def create(self, caller: Caller, subject: str, *, request_id: str) -> tuple[Secret, float]:
        """A code that says who one person is, and when it ends. Raises InvalidRequest, Forbidden."""
        if not SUBJECT.fullmatch(subject) or not subject.isprintable():
            raise InvalidRequest("subject is who the person is to you, 1 to 255 printable characters")
        await self._authorizer.require(caller, Permission.PLUGIN, None, request_id=request_id)
        expires_at = self._clock.now() + CONNECT_CODE_LIFE
        for _ in range(ATTEMPTS):
            text = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
            code = ConnectCode(text[:HANDLE], self._digest(text), subject, caller.name, expires_at)
            if await self._store.add_connect_code(code):
                detail = f"subject {subject}"
                await self._authorizer.note(
                    caller, "plugin.connect_code", None, detail, request_id=request_id
                )
                return Secret("-".join(text[at : at + 4] for at in range(0, LENGTH, 4))), expires_at
        raise Overloaded("too many connect codes are open at once; try again", retry_after=60)

    def read(self, typed: str) -> Typed | None:
        """None where that is no connect code at all."""
        text = re.sub(r"[\s-]", "", typed[:64]).upper().translate(MISREAD)
        if len(text) != LENGTH or not set(text) <= set(ALPHABET):
            return None
        return Typed(text[:HANDLE], self._digest(text))

    def _digest(self, text: str) -> str:
        """Keyed, since whoever reads the store could search through what is left of sixty bits."""
        return self._keyring.derive("connect code", text.encode()).hex()


class ConsentGone(Exception):
    """The question cannot be answered here and now."""

    def __init__(self, why: Gone) -> None:
        super().__init__(why)
        self.why = why


class WrongConnectCode(Exception):
    """What was typed is no living connect code."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Where the browser goes with the code, and what it keeps for the install that follows."""

    location: str
    person: Secret


class ConsentService:
    """What `/plugin/authorize` does once it is clear who asks for what."""

    def __init__(
        self,
        *,
        store: PluginStore,
        clients: Clients,
        connect_codes: ConnectCodes,
        authorizer: Authorizer,
        clock: Clock,
        issuer: str,
        kept: KeptRequests,
        unknown_users: UnknownUserLimits,
    ) -> None:
        self._kept, self._unknown_users = kept, unknown_users
        self._store, self._clients, self._connect_codes = store, clients, connect_codes
        self._authorizer, self._clock, self.issuer = authorizer, clock, issuer
        self._being_decided: set[str] = set()

    async def begin(self, ask: Ask, browser: Secret, subject: str) -> Secret:
        """Open a question to a person who has signed in; the handle is its CSRF token."""
        handle = oauth.new_secret()
        await self._store.begin_consent(self._new(ask, handle, browser, subject))
        return handle

    def begin_unknown(self, ask: Ask, browser: Secret) -> tuple[Secret, PluginConsent, Kept] | None:
        """Open a question to whoever it is: a connect code will say that. Nothing is stored; the browser keeps it.
        None where the request is too long for that."""
        handle = oauth.new_secret()
        consent = self._new(ask, handle, browser, None)
        kept = self._kept.keep(KEPT_FOR, handle, [ask_to_text(ask)], until=consent.expires_at)
        return None if kept is None else (handle, consent, kept)

    def _new(self, ask: Ask, handle: Secret, browser: Secret, subject: str | None) -> PluginConsent:
        return PluginConsent(
            hash=oauth.hashed(handle),
            browser_hash=oauth.hashed(browser),
            client=ask.client.name,
            redirect_uri=ask.redirect_uri,
            redirect_uri_given=ask.redirect_uri_given,
            state=ask.state,
            scope=ask.scope,
            challenge=ask.challenge,
            subject=subject,
            expires_at=self._clock.now() + CONSENT_LIFE,
        )

    async def look(self, handle: Secret, browser: Secret | None, cookies: Mapping[str, str]) -> PluginConsent:
        """The question, while it is open in this browser; raises ConsentGone."""
        consent = await self._store.consent(oauth.hashed(handle), self._clock.now())
        if consent is None:
            return await self._unstored(handle, browser, cookies)
        if browser is None:
            raise ConsentGone("cookies")
        if not is_same_browser(browser, consent.browser_hash):
            raise ConsentGone("browser")
        client = self._clients.named(consent.client)
        if client is None or consent.redirect_uri not in client.redirect_uris:
            raise ConsentGone("over")
        return consent

    @contextmanager
    def deciding(self, handle: Secret) -> Iterator[None]:
        """Handle one answer to a question at a time: a second click is told that it is over.

        Raises ConsentGone.
        """
        hash_ = oauth.hashed(handle)
        if hash_ in self._being_decided:
            raise ConsentGone("over")
        self._being_decided.add(hash_)
        try:
            yield
        finally:
            self._being_decided.discard(hash_)

    async def store(self, consent: PluginConsent, site: str) -> None:
        """Write down a question that only the browser has kept so far, once, before it is answered.

        Raises ConsentGone, RateLimited.
        """
        if consent.subject is not None or await self._store.consent(consent.hash, self._clock.now()):
            return
        self._unknown_users.admit(site)
        if not await self._store.claim_consent(consent):
            raise ConsentGone("over")

    async def _unstored(
        self, handle: Secret, browser: Secret | None, cookies: Mapping[str, str]
    ) -> PluginConsent:
        kept = await self._kept.find(KEPT_FOR, handle, cookies)
        ask = None if kept is None else ask_from_text(kept[1], self._clients)
        if kept is None or ask is None or await self._store.is_claimed(oauth.hashed(handle)):
            raise ConsentGone("over")
        if browser is None:
            raise ConsentGone("cookies")
        return replace(self._new(ask, handle, browser, None), expires_at=kept[0])

    async def deny(self, consent: PluginConsent, *, request_id: str) -> str:
        """Where the browser goes; raises ConsentGone."""
        await self._note(consent, consent.subject, "plugin.deny", request_id)
        if not await self._store.deny(consent.hash, self._clock.now()):
            raise ConsentGone("over")
        return Bounce(consent.redirect_uri, consent.state, "access_denied").location(self.issuer)

    async def allow(self, consent: PluginConsent, typed: str | None, *, request_id: str) -> Allowed:
        """A code for the client. Raises WrongConnectCode, ConsentGone."""
        subject, handle = consent.subject, None
        if subject is None:
            subject, handle = await self._who(consent, self._connect_codes.read(typed or ""))
        secret, person, now = oauth.new_secret(), oauth.new_secret(), self._clock.now()
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
        await self._note(consent, subject, "plugin.allow", request_id)
        if not await self._store.allow(consent.hash, code, remembered, connect_code=handle, now=now):
            raise ConsentGone("over")
        members = {"code": secret.reveal()}
        return Allowed(answer_location(consent.redirect_uri, members, consent.state, self.issuer), person)

    async def _who(self, consent: PluginConsent, typed: Typed | None) -> tuple[str, str]:
        """The subject and the handle of a connect code; what is none at all costs a try too."""
        handle, digest = (typed.handle, typed.digest) if typed else ("", "")
        found = await self._store.try_connect_code(consent.hash, handle, digest, self._clock.now())
        if found is None:
            log.warning("plugin.wrong_connect_code", client=consent.client)
            raise WrongConnectCode
        return found.subject, found.handle

    async def _note(self, consent: PluginConsent, subject: str | None, action: str, request_id: str) -> None:
        client = self._clients.named(consent.client)
        if client is not None:
            detail = f"subject {subject}, scope {consent.scope!r}"
            await self._authorizer.announce(as_caller(client), action, None, detail, request_id=request_id)
