"""Install links and callbacks: the part of an install that deals with the browser."""

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
    require_account_name,
)
from broker.http.browser import Kept
from broker.installs.exchange import AuthorizationResponse, Exchange, InstallResult, declined, provider_named
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
EVENT_EVERY = 60.0
"""Seconds between two events about failed installs without a link, for each provider."""
READ_EVERY, READINGS = 0.5, 240
LONGEST_EXCHANGE = 120.0
"""Seconds after which another broker's exchange has ended, whether or not its result is stored."""
DAMAGED_AGAIN = 300.0


LATE = {
    "other_name": "the identity, known only now, is that of the account {account}",
    "other_identity": "the identity, known only now, is not that of the account {account}",
    "unknown_identity": "the provider did not say whose account it is, and {account} has an identity",
    "other_subject": "the account {account} belongs to another subject",
    "link_used": "the link has connected an account meanwhile",
}
"""Why an install whose identity came late connected nothing, for its event."""


class InstallService:
    """The service behind `POST /installs`, the install links and the callback."""

    def __init__(self, context: Context, *, browsers: Browsers, later: Retained[PendingGrant]) -> None:
        self._context, self._browsers, self._exchange = context, browsers, Exchange(context, later=later)
        self._store, self._clock = context.stores.installs, context.steady
        self._event_at: dict[str, float] = {}
        """The time of the last event about a failed install without a link, by provider."""
        self.exchanges = SingleFlight[str, InstallResult]("exchange")
        """The exchanges under way, by the hash of their state."""

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
        """Return a link with which one user connects one account, and when it expires.

        Raises InvalidRequest, Forbidden.
        """
        if account is not None:
            require_account_name(account)
        await self._context.authorizer.require(
            caller, Permission.INSTALL, account, request_id=request_id, action="installs.create"
        )
        # The name is derived from an id that is unknown yet, so only a trailing wildcard covers it.
        if account is None and not any(
            glob.endswith("*") and fnmatchcase(f"{provider}-", glob) for glob in caller.accounts
        ):
            raise Forbidden(
                f"Caller {caller.name!r} has to name the account, because its globs do not cover every name"
            )
        if return_to is not None and not _is_return_url(return_to):
            raise InvalidRequest(
                "return_to is an https address (http only on loopback) without user or fragment"
            )
        providers = self._context.providers
        if provider not in providers:
            # Anything that is no name may be a secret in the wrong place.
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
        """Return the ticket of an install link. Raises ShownError if it is unknown, used or expired."""
        ticket = await self._store.ticket(oauth.hashed(secret))
        if ticket is None or ticket.provider != provider:
            raise unusable("unknown")
        if ticket.spent_at is not None:
            raise unusable("used")
        if ticket.expires_at <= self._clock.now():
            raise unusable("expired")
        return ticket

    async def begin(self, ticket: Ticket, browser: Secret, kit_return_url: str | None = None) -> str:
        """Store an install, and return the authorization URL to which its browser is sent."""
        install, _, _, url = self._start(ticket, browser, kit_return_url)
        await self._store.begin_install(install)
        return url

    def begin_unknown(self, provider: str, kit_return_url: str) -> tuple[str, Kept]:
        """Return the authorization URL for an unknown user, and the cookie that keeps the install unstored."""
        install, state, verifier, url = self._start(without_link(provider), Secret(""), kit_return_url)
        fields = [provider, install.client_id, kit_return_url, verifier.reveal()]
        kept = self._browsers.kept.keep(KEPT_FOR, state, fields, until=install.expires_at)
        if kept is None:
            raise InvalidRequest("the address to return to is too long")
        return url, kept

    async def callback(
        self, provider: str, response: AuthorizationResponse, browser: Browser
    ) -> InstallResult:
        """Finish the install whose browser has come back with a response. Raises ShownError, Overloaded.

        While its exchange is under way, other requests with the same state wait for its result, and a stop waits too.
        """
        install, is_stored = await self._found(provider, response.state, browser)
        if not is_stored:
            # Before anything is logged.
            self._browsers.unknown_users.admit(browser.site)
        if response.iss is not None and not provider_named(self._context.providers, provider).is_issuer(
            response.iss, install.org
        ):
            log.warning("install.foreign_issuer", provider=provider, iss=response.iss[:200])
            raise unusable("issuer")
        if install.state_hash not in self.exchanges:
            if install.outcome is not None:
                return await self._again(install, install.outcome)
            if install.expires_at <= self._clock.now():
                raise unusable("expired")
            if not is_stored and response.code is None:
                # No row is made, so that an unknown user who declines leaves nothing in the store.
                return await self._conclude(declined(install, response), is_stored=False)
            if self._context.health.stopping:
                raise Overloaded(
                    "the service is being restarted; load this page again in a minute", retry_after=60
                )
        return await asyncio.shield(
            self.exchanges.join(install.state_hash, lambda: self._end(install, response, is_stored=is_stored))
        )

    async def identify_held(self) -> None:
        """Ask again for the identities of stored grants that the provider could not give before."""
        for grant in await self._store.held_grants(self._clock.now(), 16):
            try:
                result = await self._exchange.identify_again(grant)
            except (Conflict, InvalidRequest, NotFound) as exc:
                # It cannot be decrypted, its provider is gone, or its org is wrong; the other grants go on.
                log.error("install.record_damaged", provider=grant.install.provider, exc_info=exc)
                await self._store.retry_grant(grant.install.state_hash, self._clock.now() + DAMAGED_AGAIN)
                continue
            if result is not None and result.outcome is InstallOutcome.CONFLICT:
                # Its page said "Almost done", so only an event can report how it ended.
                text = LATE.get(
                    result.why or "", "the provider gave no identity, and the link no name ({detail})"
                )
                detail = text.format(account=result.conflicting, detail=result.detail or result.why)
                await self._conclude(replace(result, detail=detail), is_late=True)

    def _start(
        self, ticket: Ticket, browser: Secret, kit_return_url: str | None
    ) -> tuple[PendingInstall, Secret, Secret, str]:
        """Return a new install, its state, its PKCE verifier and its authorization URL."""
        state, verifier = oauth.new_secret(), oauth.new_secret(48)
        install = self._new(ticket, state, verifier, browser, kit_return_url)
        provider, uri = provider_named(self._context.providers, install.provider), install.redirect_uri
        url = provider.authorize_url(
            redirect_uri=uri, state=state, verifier=verifier, org=install.org, account=install.account
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
        """Return the install of a state, from the store or from this browser's cookie, and whether it is stored."""
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
            # Before the exchange: at some providers a new grant revokes the one that was connected meanwhile.
            ticket = await self._store.ticket(install.ticket_hash)
            if ticket is None or ticket.spent_at is not None:
                raise unusable("replaced" if ticket is None else "used")
        return install, True

    async def _end(
        self, install: PendingInstall, response: AuthorizationResponse, *, is_stored: bool
    ) -> InstallResult:
        """Use the state, which only one request can do, and act on the response."""
        now = self._clock.now()
        if is_stored:
            is_ours = await self._store.take_install(install.state_hash, now)
        else:
            # The row is the claim: only one request can insert it, and it is durable before the code is sent.
            is_ours = await self._store.claim_install(replace(install, taken_at=now))
        if not is_ours:
            return await self._result_of_another(install)
        if response.code is None:
            return await self._conclude(declined(install, response))
        try:
            return await self._conclude(await self._exchange.redeem(install, response.code))
        except Exception as exc:
            # The request that waited for it may be gone, so nobody else would report it.
            log.info("install.not_ended", error=type(exc).__name__)
            raise

    async def _result_of_another(self, install: PendingInstall) -> InstallResult:
        """Wait for the result of an exchange that an earlier request began, perhaps at another broker."""
        is_shared = self._context.is_shared
        for _ in range(READINGS if is_shared else 1):
            row = await self._store.install(install.state_hash)
            if row is not None and row.outcome is not None:
                return await self._again(row, row.outcome)
            if not is_shared or row is None or self._clock.now() - (row.taken_at or 0.0) > LONGEST_EXCHANGE:
                break
            await self._clock.sleep(READ_EVERY)
        raise unusable("unfinished")

    async def _again(self, install: PendingInstall, outcome: InstallOutcome) -> InstallResult:
        """Return the result of an install that has ended, for a page that is loaded again."""
        name = install.outcome_account
        if outcome is InstallOutcome.CONNECTED and name:
            account = await self._context.stores.accounts.get(name)
            if account is not None and account.removed_at is None and account.unusable:
                return InstallResult(install, InstallOutcome.FAILED, name, "token_unusable")
        return InstallResult(install, outcome, name)

    async def _conclude(
        self, result: InstallResult, *, is_stored: bool = True, is_late: bool = False
    ) -> InstallResult:
        """Store, count and log the result of an install, with its event in the same transaction.

        The result of an install that connected an account was stored by `Connector.connect`.
        """
        install, why, now = result.install, result.why, self._clock.now()
        failed = result.outcome is InstallOutcome.FAILED
        connected = result.outcome in (InstallOutcome.CONNECTED, InstallOutcome.IDENTITY_PENDING)
        if not connected and why != "token_unusable":
            events = []
            if is_late or why == "no_name" or failed:
                # Each failure of a link makes an event; installs without a link make one a minute.
                last = self._event_at.get(install.provider)
                if install.ticket_hash is not None or last is None or not 0 <= now - last < EVENT_EVERY:
                    kind, detail = EventKind.INSTALL_FAILED, result.detail or why
                    events = [Event(now, kind, install.account, install.provider, None, detail=detail)]
                    if install.ticket_hash is None:
                        self._event_at[install.provider] = now
            if is_stored:
                await self._store.finish_install(
                    install.state_hash, result.outcome, account=install.account, events=events
                )
            elif events:
                # If it cannot be stored, the log has it.
                with suppress(StorageUnavailable):
                    await self._context.stores.events.add_events(events)
        self._context.metrics.installs.labels(install.provider, result.outcome).inc()
        log.log(
            logging.WARNING if failed else logging.INFO,
            "install.ended",
            provider=install.provider,
            account=result.account,
            outcome=result.outcome,
            why=why,
            detail=result.detail,
        )
        return result


def without_link(provider: str, subject: str | None = None) -> Ticket:
    """Return the ticket of an install without a link, which may only connect an account named after its id."""
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
