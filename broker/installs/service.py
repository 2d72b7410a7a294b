"""Links, tickets and the callback: the part of an install that meets the browser."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

import structlog

from broker import oauth
from broker.context import Context
from broker.encryption.tokens import VERIFIER
from broker.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    StorageUnavailable,
    no_provider,
)
from broker.http.browser import Kept
from broker.installs.exchange import Exchange, Returned, Visit, declined, provider_named
from broker.installs.pages import unusable
from broker.login import Browser, Browsers
from broker.model import (
    Caller,
    Event,
    EventKind,
    InstallOutcome,
    PendingGrant,
    PendingInstall,
    Permission,
    Secret,
    Ticket,
    is_account_name,
)
from broker.single_flight import SingleFlight
from broker.store.retained import Retained

log = structlog.get_logger()
TICKET_LIFE = 3600.0
INSTALL_LIFE = 600.0
KEPT_FOR = "install"
TOLD_EVERY = 60.0
LOOK_EVERY, LOOKS = 0.5, 240
LONGEST_EXCHANGE = 120.0
"""Seconds after which another broker's exchange is over, noted or not."""
DAMAGED_AGAIN = 300.0


class InstallService:
    """What `POST /installs`, the install links and the callback do."""

    def __init__(self, context: Context, *, browsers: Browsers, later: Retained[PendingGrant]) -> None:
        self._context, self._browsers, self._exchange = context, browsers, Exchange(context, later=later)
        self._store, self._clock = context.stores.installs, context.steady
        self._told_at: dict[str, float] = {}
        """When a stranger's failed install last made an event, by provider."""
        self.exchanges = SingleFlight[str, Visit]("exchange")
        """Those under way, by the hash of their state."""

    async def create(
        self,
        caller: Caller,
        *,
        provider: str,
        account: str | None,
        org: str | None,
        return_to: str | None,
        replace_identity: bool,
        request_id: str,
    ) -> tuple[str, float]:
        """A link for one user to connect one account, and when it expires. Raises InvalidRequest, Forbidden."""
        if account is not None and not is_account_name(account):
            raise InvalidRequest("an account's name is lower-case letters, digits and . _ -, at most 128")
        await self._context.authorizer.require(
            caller, Permission.INSTALL, account, request_id=request_id, action="installs.create"
        )
        # Whatever id comes, only a trailing wildcard covers the name that is made of it.
        if account is None and not any(
            glob.endswith("*") and fnmatchcase(f"{provider}-", glob) for glob in caller.accounts
        ):
            raise Forbidden(
                f"Caller {caller.name!r} has to name the account, because its globs cover not every name"
            )
        if return_to is not None and not _is_return_url(return_to):
            raise InvalidRequest(
                "return_to is an https address (http only on loopback) without user or fragment"
            )
        providers = self._context.providers
        if provider not in providers:
            # Anything else may be a secret in the wrong place.
            raise InvalidRequest(no_provider(provider if is_account_name(provider) else None, providers))
        providers[provider].check_org(org)
        secret, expires_at = oauth.new_secret(), self._clock.now() + TICKET_LIFE
        ticket = Ticket(
            hash=oauth.hashed(secret),
            provider=provider,
            account=account,
            org=org,
            return_to=return_to,
            replace=replace_identity,
            subject=None,
            created_by=caller.name,
            expires_at=expires_at,
        )
        await self._store.add_ticket(ticket)
        return f"{self._browsers.public_url}/install/{provider}?ticket={secret.reveal()}", expires_at

    async def check_ticket(self, provider: str, secret: Secret) -> Ticket:
        """Return the ticket of an install link, while it is good. Raises ShownError."""
        ticket = await self._store.ticket(oauth.hashed(secret))
        if ticket is None or ticket.provider != provider:
            raise unusable("unknown")
        if ticket.spent_at is not None:
            raise unusable("used")
        if ticket.expires_at <= self._clock.now():
            raise unusable("expired")
        return ticket

    async def begin(self, ticket: Ticket, browser: Secret, kit_return_url: str | None = None) -> str:
        """Store an install, and return where to send its browser."""
        install, _, _, url = self._start(ticket, browser, kit_return_url)
        await self._store.begin_install(install)
        return url

    def begin_unknown(self, provider: str, kit_return_url: str) -> tuple[str, Kept]:
        """Return where to send the browser of an unknown user, and what it keeps; nothing is stored."""
        install, state, verifier, url = self._start(without_link(provider), Secret(""), kit_return_url)
        fields = [provider, install.client_id, kit_return_url, verifier.reveal()]
        kept = self._browsers.kept.keep(KEPT_FOR, state, fields, until=install.expires_at)
        if kept is None:
            raise InvalidRequest("the address to go back to is too long")
        return url, kept

    async def callback(self, provider: str, returned: Returned, browser: Browser) -> Visit:
        """End the install whose browser is back. Raises ShownError, Overloaded.

        Once an exchange is under way, whoever comes with the same state waits for its end, and a stop does too.
        """
        install, is_stored = await self._found(provider, returned.state, browser)
        if not is_stored:
            # Before anything is logged, too.
            self._browsers.unknown_users.admit(browser.site)
        if returned.iss is not None and not provider_named(self._context.providers, provider).is_issuer(
            returned.iss, install.org
        ):
            log.warning("install.foreign_issuer", provider=provider, iss=returned.iss[:200])
            raise unusable("issuer")
        if install.state_hash not in self.exchanges:
            if install.outcome is not None:
                return await self._again(install, install.outcome)
            if install.expires_at <= self._clock.now():
                raise unusable("expired")
            if not is_stored and returned.code is None:
                # No row is made, so that a stranger who only goes to and fro leaves nothing behind.
                return await self._conclude(declined(install, returned), is_stored=False)
            if self._context.health.stopping:
                raise Overloaded(
                    "the service is being restarted; load this page again in a minute", retry_after=60
                )
        return await asyncio.shield(
            self.exchanges.join(install.state_hash, lambda: self._end(install, returned, is_stored=is_stored))
        )

    async def identify_held(self) -> None:
        """Ask again for identities that the provider could not tell; grants survive restarts."""
        for grant in await self._store.held_grants(self._clock.now(), 16):
            try:
                visit = await self._exchange.identify_again(grant)
            except (Conflict, InvalidRequest, NotFound) as exc:
                # It cannot be decrypted, its provider is gone, or its org does not fit: those behind it go on.
                log.error("install.record_damaged", provider=grant.install.provider, exc_info=exc)
                await self._store.retry_grant(grant.install.state_hash, self._clock.now() + DAMAGED_AGAIN)
                continue
            if visit is not None and visit.outcome is InstallOutcome.CONFLICT:
                # Its page said "Almost done", so only an event can tell how it ended.
                await self._conclude(replace(visit, detail=_late(visit)), is_late=True)

    def _start(
        self, ticket: Ticket, browser: Secret, kit_return_url: str | None
    ) -> tuple[PendingInstall, Secret, Secret, str]:
        """Return a new install, its state and verifier, and where they lead."""
        state, verifier = oauth.new_secret(), oauth.new_secret(48)
        install = self._new(ticket, state, verifier, browser, kit_return_url)
        url = provider_named(self._context.providers, install.provider).authorize_url(
            redirect_uri=install.redirect_uri,
            state=state,
            verifier=verifier,
            org=install.org,
            account=install.account,
        )
        return install, state, verifier, url

    def _new(
        self, ticket: Ticket, state: Secret, verifier: Secret, browser: Secret, kit_return_url: str | None
    ) -> PendingInstall:
        now, hash_ = self._clock.now(), oauth.hashed(state)
        return PendingInstall(
            state_hash=hash_,
            provider=ticket.provider,
            client_id=provider_named(self._context.providers, ticket.provider).client_id,
            browser_hash=oauth.hashed(browser),
            ticket_hash=ticket.hash or None,
            account=ticket.account,
            org=ticket.org,
            return_to=ticket.return_to,
            kit_return_url=kit_return_url,
            replace=ticket.replace,
            subject=ticket.subject,
            created_by=ticket.created_by,
            sealed_verifier=self._context.encryption.encrypt_pending(hash_, VERIFIER, verifier),
            redirect_uri=f"{self._browsers.public_url}/callback/{ticket.provider}",
            created_at=now,
            expires_at=now + INSTALL_LIFE,
        )

    async def _found(self, provider: str, state: Secret, browser: Browser) -> tuple[PendingInstall, bool]:
        """Return the install of a state, as stored or as this browser kept it, and whether it is stored."""
        install = await self._store.install(oauth.hashed(state))
        if install is None:
            kept = await self._browsers.kept.find(KEPT_FOR, state, browser.cookies)
            if kept is None or kept[1] != provider:
                raise unusable("unknown")
            until, _, client_id, back, verifier = kept
            install = self._new(without_link(provider), state, Secret(verifier), browser.check(), back)
            since = until - INSTALL_LIFE
            return replace(install, client_id=client_id, created_at=since, expires_at=until), False
        if install.provider != provider:
            raise unusable("unknown")
        browser.check(install.browser_hash)
        if install.outcome is None and install.taken_at is None and install.ticket_hash is not None:
            # Before the exchange: at some providers a new grant ends the one that connected meanwhile.
            ticket = await self._store.ticket(install.ticket_hash)
            if ticket is None or ticket.spent_at is not None:
                raise unusable("replaced" if ticket is None else "used")
        return install, True

    async def _end(self, install: PendingInstall, returned: Returned, *, is_stored: bool) -> Visit:
        """Use up the state, once, and do what the provider's answer asks for."""
        now = self._clock.now()
        if is_stored:
            is_ours = await self._store.take_install(install.state_hash, now)
        else:
            # The row is the claim: only one caller can make it, and it is there before the code is sent.
            is_ours = await self._store.claim_install(replace(install, taken_at=now))
        if not is_ours:
            return await self._of_another(install)
        if returned.code is None:
            return await self._conclude(declined(install, returned))
        try:
            return await self._conclude(await self._exchange.redeem(install, returned.code))
        except Exception as exc:
            # Whoever waited for it may be gone, and then nobody else would tell.
            log.info("install.not_ended", error=type(exc).__name__)
            raise

    async def _of_another(self, install: PendingInstall) -> Visit:
        """Return how the install ended that an earlier request began, maybe at another broker, where it may go on."""
        is_shared = self._context.is_shared
        for _ in range(LOOKS if is_shared else 1):
            row = await self._store.install(install.state_hash)
            if row is not None and row.outcome is not None:
                return await self._again(row, row.outcome)
            if not is_shared or row is None or self._clock.now() - (row.taken_at or 0.0) > LONGEST_EXCHANGE:
                break
            await self._clock.sleep(LOOK_EVERY)
        raise unusable("unfinished")

    async def _again(self, install: PendingInstall, outcome: InstallOutcome) -> Visit:
        """Return how an install ended, for a page that is loaded again."""
        name = install.outcome_account
        if outcome is InstallOutcome.CONNECTED and name:
            account = await self._context.stores.accounts.get(name)
            if account is not None and account.removed_at is None and account.unusable:
                return Visit(install, InstallOutcome.FAILED, name, "token_unusable")
        return Visit(install, outcome, name)

    async def _conclude(self, visit: Visit, *, is_stored: bool = True, is_late: bool = False) -> Visit:
        """Store, count and log how an install ended; `connect` has stored it of one that connected an account.

        An event is part of the same transaction.
        """
        install, why, now = visit.install, visit.why, self._clock.now()
        failed = visit.outcome is InstallOutcome.FAILED
        if visit.connected_nothing:
            events = []
            if is_late or why == "no_name" or failed:
                # Each failure of a link makes an event; of strangers' one a minute does.
                last = self._told_at.get(install.provider)
                if install.ticket_hash is not None or last is None or not 0 <= now - last < TOLD_EVERY:
                    kind, detail = EventKind.INSTALL_FAILED, visit.detail or why
                    events = [Event(now, kind, install.account, install.provider, None, detail=detail)]
                    if install.ticket_hash is None:
                        self._told_at[install.provider] = now
            if is_stored:
                await self._store.finish_install(
                    install.state_hash, visit.outcome, account=install.account, events=events
                )
            elif events:
                # The log has it where the store does not.
                with suppress(StorageUnavailable):
                    await self._context.stores.events.add_events(events)
        self._context.metrics.installs.labels(install.provider, visit.outcome).inc()
        log.log(
            logging.WARNING if failed else logging.INFO,
            "install.ended",
            provider=install.provider,
            account=visit.account,
            outcome=visit.outcome,
            why=why,
            detail=visit.detail,
        )
        return visit


def without_link(provider: str, subject: str | None = None) -> Ticket:
    """Return what an install may do that has no link: no more than name an account after its id."""
    return Ticket(
        hash="",
        provider=provider,
        account=None,
        org=None,
        return_to=None,
        replace=False,
        subject=subject,
        created_by="unannounced" if subject is None else "login",
        expires_at=0,
    )


def _is_return_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")
    plain = url.isascii() and url.isprintable() and "\\" not in url and " " not in url
    scheme = parts.scheme == "https" or (parts.scheme == "http" and loopback)
    return plain and scheme and bool(parts.hostname) and "@" not in parts.netloc and not parts.fragment


def _late(visit: Visit) -> str:
    """Say why an install whose identity came late connected nothing, for its event."""
    match visit.why:
        case "other_name":
            return f"the identity, known only now, is that of the account {visit.in_the_way}"
        case "other_identity":
            return f"the identity, known only now, is not that of the account {visit.in_the_way}"
        case "other_subject":
            return f"the account {visit.in_the_way} belongs to another subject"
        case "link_used":
            return "the link has connected an account meanwhile"
        case _:
            return f"the provider told no identity, and the link no name ({visit.detail or visit.why})"
