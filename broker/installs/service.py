"""Links, tickets and the callback: the part of an install that meets the browser."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

import structlog

from broker import oauth
from broker.callers.authorization import Authorizer, covers
from broker.clock import Clock
from broker.encryption.tokens import VERIFIER, TokenEncryption
from broker.errors import Forbidden, InvalidRequest, Overloaded, StorageUnavailable, no_provider
from broker.http.browser import Kept, KeptRequests
from broker.http.peers import UnknownUserLimits
from broker.installs.connect import Connector
from broker.installs.exchange import Exchange, Returned, Visit, declined, provider_named
from broker.model import (
    Caller,
    Event,
    EventKind,
    InstallOutcome,
    PendingInstall,
    Permission,
    Secret,
    Ticket,
    is_account_name,
)
from broker.observe.metrics import Metrics
from broker.providers.oauth2 import OAuth2Provider
from broker.store.events import EventStore
from broker.store.installs import InstallStore

log = structlog.get_logger()
INSTALL_LIFE = 600.0
TICKET_LIFE = 3600.0
KEPT_FOR = "install"
TOLD_EVERY = 60.0
LOOK_EVERY, LOOKS = 0.5, 240
LONGEST_EXCHANGE = 120.0
"""Seconds after which another broker's exchange is over, noted or not."""


class LinkUnusable(Exception):
    """A link or state that leads nowhere; `why` is a key of `pages.UNUSABLE`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class InstallService:
    """What `POST /installs`, the install links and the callback do."""

    def __init__(
        self,
        *,
        store: InstallStore,
        connector: Connector,
        exchange: Exchange,
        providers: Mapping[str, OAuth2Provider],
        encryption: TokenEncryption,
        authorizer: Authorizer,
        clock: Clock,
        metrics: Metrics,
        public_url: str,
        browser_matches: Callable[[Secret | None, str], bool],
        kept: KeptRequests,
        unknown_users: UnknownUserLimits,
        is_shared: bool,
        is_stopping: Callable[[], bool],
        events: EventStore,
    ) -> None:
        self._store, self._connector, self._exchange = store, connector, exchange
        self._providers = providers
        self._encryption, self._authorizer, self._clock, self._metrics = (
            encryption,
            authorizer,
            clock,
            metrics,
        )
        self._public_url, self._browser_matches = public_url, browser_matches
        self._kept, self._unknown_users = kept, unknown_users
        self._is_shared, self._is_stopping, self._events = is_shared, is_stopping, events
        self._told_at: dict[str, float] = {}
        """When a stranger's failed install last made an event, by provider."""
        self._exchanges: dict[str, asyncio.Task[Visit]] = {}
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
        """A link for one person to connect one account, and when it expires. Raises InvalidRequest, Forbidden."""
        if account is not None and not is_account_name(account):
            raise InvalidRequest("an account's name is lower-case letters, digits and . _ -, at most 128")
        await self._authorizer.require(
            caller, Permission.INSTALL, account, request_id=request_id, action="installs.create"
        )
        if account is None and not _covers_derived_names(caller, provider):
            raise Forbidden(
                f"Caller {caller.name!r} has to name the account, because its globs cover not every name"
            )
        if return_to is not None and not _is_return_url(return_to):
            raise InvalidRequest(
                "return_to is an https address (http only on loopback) without user or fragment"
            )
        self._check_provider(provider, org)
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
        return f"{self._public_url}/install/{provider}?ticket={secret.reveal()}", expires_at

    async def open_ticket(self, provider: str, secret: Secret, browser: Secret) -> str:
        """Where to send the browser that opened an install link; raises LinkUnusable."""
        return await self._begin(await self.check_ticket(provider, secret), browser, kit_return_url=None)

    async def check_ticket(self, provider: str, secret: Secret) -> Ticket:
        """The ticket of an install link, while it is good; raises LinkUnusable."""
        ticket = await self._store.ticket(oauth.hashed(secret))
        if ticket is None or ticket.provider != provider:
            raise LinkUnusable("unknown")
        if ticket.spent_at is not None:
            raise LinkUnusable("used")
        if ticket.expires_at <= self._clock.now():
            raise LinkUnusable("expired")
        return ticket

    async def begin_unannounced(
        self, provider: str, *, kit_return_url: str | None, subject: str, browser: Secret
    ) -> str:
        """Where to send the browser of a person who has signed in; the account is named after its id."""
        return await self._begin(_unannounced(provider, subject), browser, kit_return_url=kit_return_url)

    def begin_unknown(self, provider: str, *, kit_return_url: str) -> tuple[str, Kept]:
        """Where to send the browser of a person whom nobody knows, and what it keeps; nothing is stored."""
        state, verifier = oauth.new_secret(), oauth.new_secret(48)
        install = self._new(_unannounced(provider, None), state, Secret(""), kit_return_url=kit_return_url)
        fields = [provider, install.client_id, kit_return_url, verifier.reveal()]
        kept = self._kept.keep(KEPT_FOR, state, fields, until=install.expires_at)
        if kept is None:
            raise InvalidRequest("the address to go back to is too long")
        return self._authorize_url(install, state, verifier), kept

    async def callback(
        self,
        provider: str,
        returned: Returned,
        *,
        browser: Secret | None,
        cookies: Mapping[str, str],
        site: str,
    ) -> Visit:
        """The browser is back. Raises LinkUnusable, Overloaded.

        Once an exchange is under way, whoever comes with the same state waits for its end, and a stop does too.
        """
        install, is_stored = await self._found(provider, returned.state, browser, cookies)
        if not is_stored:
            # Before anything is logged, too.
            self._unknown_users.admit(site)
        if returned.iss is not None and not provider_named(self._providers, provider).is_issuer(
            returned.iss, install.org
        ):
            log.warning("install.foreign_issuer", provider=provider, iss=returned.iss[:200])
            raise LinkUnusable("issuer")
        running = self._exchanges.get(install.state_hash)
        if running is None:
            if install.outcome is not None:
                return await self._again(install, install.outcome)
            if install.expires_at <= self._clock.now():
                raise LinkUnusable("expired")
            if not is_stored and returned.code is None:
                # Nothing is written, so that a stranger who only goes to and fro leaves nothing behind.
                return await self._told(declined(install, returned), returned.error)
            if self._is_stopping():
                raise Overloaded(
                    "the service is being restarted; load this page again in a minute", retry_after=60
                )
            running = asyncio.create_task(self._end(install, returned, is_stored=is_stored), name="exchange")
            self._exchanges[install.state_hash] = running
            running.add_done_callback(partial(self._ended, install.state_hash))
        return await asyncio.shield(running)

    async def drain(self) -> None:
        """Wait for the exchanges that are under way; a code cannot be sent twice."""
        while self._exchanges:
            await asyncio.wait(list(self._exchanges.values()))

    def __len__(self) -> int:
        """How many exchanges are under way."""
        return len(self._exchanges)

    async def identify_held(self) -> None:
        """Ask again for identities that the provider could not tell; grants survive restarts."""
        for visit in await self._exchange.identify_held():
            # Its page said "Almost done", so only an event can tell how it ended.
            await self._told(replace(visit, detail=_late(visit)), None, is_late=True)

    async def _begin(self, ticket: Ticket, browser: Secret, *, kit_return_url: str | None) -> str:
        state, verifier = oauth.new_secret(), oauth.new_secret(48)
        install = self._new(ticket, state, browser, kit_return_url=kit_return_url)
        sealed = self._encryption.encrypt_pending(install.state_hash, VERIFIER, verifier)
        url = self._authorize_url(install, state, verifier)
        await self._store.begin_install(replace(install, sealed_verifier=sealed))
        return url

    def _new(
        self, ticket: Ticket, state: Secret, browser: Secret, *, kit_return_url: str | None
    ) -> PendingInstall:
        now = self._clock.now()
        return PendingInstall(
            state_hash=oauth.hashed(state),
            provider=ticket.provider,
            client_id=provider_named(self._providers, ticket.provider).client_id,
            browser_hash=oauth.hashed(browser),
            ticket_hash=ticket.hash or None,
            account=ticket.account,
            org=ticket.org,
            return_to=ticket.return_to,
            kit_return_url=kit_return_url,
            replace=ticket.replace,
            subject=ticket.subject,
            created_by=ticket.created_by,
            sealed_verifier=None,
            redirect_uri=f"{self._public_url}/callback/{ticket.provider}",
            created_at=now,
            expires_at=now + INSTALL_LIFE,
        )

    def _authorize_url(self, install: PendingInstall, state: Secret, verifier: Secret) -> str:
        return provider_named(self._providers, install.provider).authorize_url(
            redirect_uri=install.redirect_uri,
            state=state,
            verifier=verifier,
            org=install.org,
            account=install.account,
        )

    async def _found(
        self, provider: str, state: Secret, browser: Secret | None, cookies: Mapping[str, str]
    ) -> tuple[PendingInstall, bool]:
        """The install of a state, as stored or as this browser kept it; whether it is stored."""
        install = await self._store.install(oauth.hashed(state))
        if install is None:
            return await self._unstored(provider, state, browser, cookies), False
        if install.provider != provider:
            raise LinkUnusable("unknown")
        if browser is None:
            raise LinkUnusable("cookies")
        if not self._browser_matches(browser, install.browser_hash):
            raise LinkUnusable("browser")
        if install.outcome is None and install.taken_at is None and install.ticket_hash is not None:
            # Before the exchange: at some providers a new grant ends the one that connected meanwhile.
            ticket = await self._store.ticket(install.ticket_hash)
            if ticket is None or ticket.spent_at is not None:
                raise LinkUnusable("replaced" if ticket is None else "used")
        return install, True

    async def _unstored(
        self, provider: str, state: Secret, browser: Secret | None, cookies: Mapping[str, str]
    ) -> PendingInstall:
        kept = await self._kept.find(KEPT_FOR, state, cookies)
        if kept is None or kept[1] != provider:
            raise LinkUnusable("unknown")
        if browser is None:
            raise LinkUnusable("cookies")
        until, _, client_id, kit_return_url, verifier = kept
        install = self._new(_unannounced(provider, None), state, browser, kit_return_url=kit_return_url)
        return replace(
            install,
            client_id=client_id,
            sealed_verifier=self._encryption.encrypt_pending(install.state_hash, VERIFIER, Secret(verifier)),
            created_at=until - INSTALL_LIFE,
            expires_at=until,
        )

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
            visit = declined(install, returned)
            await self._exchange.finish(install, visit.outcome)
        else:
            visit = await self._exchange.redeem(install, returned.code)
        return await self._told(visit, returned.error)

    async def _of_another(self, install: PendingInstall) -> Visit:
        """How the install ended that was begun by an earlier request, maybe at another broker, where it may go on."""
        for _ in range(LOOKS if self._is_shared else 1):
            row = await self._store.install(install.state_hash)
            if row is not None and row.outcome is not None:
                return await self._again(row, row.outcome)
            if (
                not self._is_shared
                or row is None
                or self._clock.now() - (row.taken_at or 0.0) > LONGEST_EXCHANGE
            ):
                break
            await self._clock.sleep(LOOK_EVERY)
        raise LinkUnusable("unfinished")

    async def _again(self, install: PendingInstall, outcome: InstallOutcome) -> Visit:
        """How an install ended, for a page that is loaded again."""
        account = install.outcome_account
        if outcome is InstallOutcome.CONNECTED and account and await self._connector.is_unusable(account):
            return Visit(install, InstallOutcome.FAILED, account, "token_unusable")
        return Visit(install, outcome, account)

    async def _told(self, visit: Visit, error: str | None, *, is_late: bool = False) -> Visit:
        install, why = visit.install, visit.why or error
        self._metrics.installs.labels(install.provider, visit.outcome).inc()
        level = logging.WARNING if visit.outcome is InstallOutcome.FAILED else logging.INFO
        log.log(
            level,
            "install.ended",
            provider=install.provider,
            account=visit.account,
            outcome=visit.outcome,
            why=why,
            detail=visit.detail,
        )
        is_news = (
            is_late
            or why == "no_name"
            or (visit.outcome is InstallOutcome.FAILED and why != "token_unusable")
        )
        if is_news and self._may_tell(install):
            now, detail = self._clock.now(), visit.detail or why
            event = Event(
                now, EventKind.INSTALL_FAILED, install.account, install.provider, None, detail=detail
            )
            # The log has it where the store does not.
            with suppress(StorageUnavailable):
                await self._events.add_events([event])
        return visit

    def _may_tell(self, install: PendingInstall) -> bool:
        """Whether a failure makes an event: each of an announced install, of strangers' one a minute."""
        if install.ticket_hash is not None:
            return True
        now, last = self._clock.now(), self._told_at.get(install.provider)
        if last is not None and 0 <= now - last < TOLD_EVERY:
            return False
        self._told_at[install.provider] = now
        return True

    def _ended(self, state_hash: str, task: "asyncio.Task[Visit]") -> None:
        del self._exchanges[state_hash]
        # Whoever waited for it may be gone, and then nobody else would look.
        if not task.cancelled() and isinstance(exc := task.exception(), Exception):
            log.info("install.not_ended", error=type(exc).__name__)

    def _check_provider(self, name: str, org: str | None) -> None:
        """Raises InvalidRequest where the provider is unknown, or needs an org and got none."""
        if name not in self._providers:
            # Anything else may be a secret in the wrong place.
            raise InvalidRequest(no_provider(name if is_account_name(name) else None, self._providers))
        self._providers[name].authorize_url(
            redirect_uri=self._public_url, state=Secret("s"), verifier=Secret("v"), org=org, account=None
        )


def _unannounced(provider: str, subject: str | None) -> Ticket:
    """What an install may do that nobody announced: no more than name an account after its id."""
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


def _covers_derived_names(caller: Caller, provider: str) -> bool:
    # Characters that no name holds: only a wildcard covers them, so it covers whatever id comes.
    return covers(caller, f"{provider}-\0") and covers(caller, f"{provider}-\0\0\0")


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
    """Why an install whose identity came late connected nothing, for its event."""
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
