"""The exchange: reads the authorization response, redeems its code, asks who the account is, and connects it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from broker.callers.authorization import Authorizer
from broker.clock import Clock
from broker.encryption.tokens import VERIFIER, TokenEncryption
from broker.errors import NotFound, StorageUnavailable
from broker.installs.connect import Connected, Connector
from broker.model import Caller, InstallOutcome, PendingGrant, PendingInstall, Secret, TokenSet
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import (
    NO_ENDPOINT,
    ClientRefused,
    Grant,
    Granted,
    Identified,
    IdentityLater,
    IdentityOutcome,
    IdentityUnknown,
    TokenOutcome,
    TokenRequest,
    cause_of,
)
from broker.store.installs import InstallStore
from broker.store.retained import Retained

log = structlog.get_logger()
PROVIDER_ERRORS = frozenset(
    {
        "invalid_request",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_response_type",
        "other",
    }
)
"""Of RFC 6749 4.1.2.1, those that are no decision of the person, and any other word."""
KNOWN_ERRORS = PROVIDER_ERRORS | {"access_denied"}
DAMAGED_AGAIN = 300.0
DECISION = re.compile("denied|declined|rejected|cancel", re.IGNORECASE)
"""A person's decision in a provider's own words: `user_denied`, `user_cancelled_authorize` (LinkedIn)."""


@dataclass(frozen=True, slots=True)
class Returned:
    """What came back with the browser (RFC 6749 4.1.2, RFC 9207)."""

    state: Secret
    code: Secret | None
    error: str | None
    """One of RFC 6749 4.1.2.1, `denied` for a person's decision in other words, or `other`."""
    iss: str | None
    detail: str | None = None
    """The provider's error and description, cleaned."""


@dataclass(frozen=True, slots=True)
class Visit:
    """How a callback ended, for whoever draws the page."""

    install: PendingInstall
    outcome: InstallOutcome
    account: str | None
    why: str | None = None
    """A word for the page: `client`, `not_installed`, `provider`, `storage`, or what was in the way."""
    without_refresh_token: bool = False
    detail: str | None = None
    """What the provider answered, or what failed below HTTP; for the log and the event, not for the page."""
    in_the_way: str | None = None
    """The account for which nothing was connected."""


class Exchange:
    """The part of an install that calls the provider, from the authorization code to the account."""

    def __init__(
        self,
        *,
        store: InstallStore,
        connector: Connector,
        providers: Mapping[str, OAuth2Provider],
        encryption: TokenEncryption,
        authorizer: Authorizer,
        clock: Clock,
        later: Retained[PendingGrant],
    ) -> None:
        self._store, self._connector, self._providers = store, connector, providers
        self._encryption, self._authorizer, self._clock, self._later = encryption, authorizer, clock, later

    async def redeem(self, install: PendingInstall, code: Secret) -> Visit:
        """Redeem the code, once; hold what came durably before anything else is asked."""
        outcome = await self._request(install, code)
        if not isinstance(outcome, Granted):
            await self.finish(install, InstallOutcome.FAILED)
            return Visit(
                install, InstallOutcome.FAILED, install.account, _why(outcome), detail=cause_of(outcome)
            )
        grant = self._sealed(install, outcome.tokens)
        try:
            await self._store.hold_grant(grant)
        except StorageUnavailable:
            await self._later.keep(grant)
            return Visit(install, InstallOutcome.IDENTITY_PENDING, install.account, "storage")
        return await self._identify(grant)

    async def identify_held(self) -> list[Visit]:
        """Ask again for identities that could not be had; over restarts too. Return the installs that then failed."""
        failed = []
        for grant in await self._store.held_grants(self._clock.now(), 16):
            try:
                visit = await self._identify_again(grant)
                if visit is not None and visit.outcome is InstallOutcome.CONFLICT:
                    failed.append(visit)
            except StorageUnavailable:
                raise
            except Exception as exc:
                # Those behind it go on, and this one does not keep its place before them.
                log.error("install.record_damaged", provider=grant.install.provider, exc_info=exc)
                await self._store.retry_grant(grant.install.state_hash, self._clock.now() + DAMAGED_AGAIN)
        return failed

    async def finish(self, install: PendingInstall, outcome: InstallOutcome) -> None:
        """Note how an install ended that connected nothing."""
        await self._store.finish_install(
            install.state_hash,
            outcome,
            account=install.account,
            spend=False,
            drop_grant=True,
            at=self._clock.now(),
        )

    async def _request(self, install: PendingInstall, code: Secret) -> TokenOutcome:
        provider = provider_named(self._providers, install.provider)
        verifier = self._encryption.decrypt_pending(install.state_hash, VERIFIER, install.sealed_verifier)
        request = TokenRequest(
            grant=Grant.CODE,
            token=code,
            client_id=install.client_id,
            org=install.org,
            redirect_uri=install.redirect_uri,
            verifier=verifier,
        )
        outcome = await provider.request_token(request, before_send=_at_once)
        if isinstance(outcome, ClientRefused) and provider.secrets_of(install.client_id) > 1:
            return await provider.request_token(replace(request, secret_index=1), before_send=_at_once)
        return outcome

    def _sealed(self, install: PendingInstall, tokens: TokenSet) -> PendingGrant:
        return PendingGrant(
            install=install,
            sealed_access=self._encryption.encrypt_pending(
                install.state_hash, "access_token", tokens.access_token
            ),
            sealed_refresh=self._encryption.encrypt_pending(
                install.state_hash, "refresh_token", tokens.refresh_token
            ),
            token_type=tokens.token_type,
            scope=tokens.scope or "",
            issued_at=tokens.issued_at,
            expires_at=tokens.expires_at,
            # A crash between here and the account leaves the grant to be identified by the next boot.
            next_at=self._clock.now() + 5,
            grant_ends_at=tokens.refresh_expires_at,
        )

    async def _identify(self, grant: PendingGrant) -> Visit:
        identity = await self._ask_identity(grant)
        match identity:
            case Identified(who):
                return await self._connect(grant, Identified(who))
            case IdentityUnknown():
                return await self._connect(grant, identity)
            case IdentityLater(why):
                log.warning("identity.postponed", provider=grant.install.provider, why=why)
                return await self._postpone(grant)

    async def _ask_identity(self, grant: PendingGrant) -> IdentityOutcome:
        install = grant.install
        access = self._encryption.decrypt_pending(install.state_hash, "access_token", grant.sealed_access)
        if access is None:
            return IdentityUnknown("there is no access token to ask with")
        return await provider_named(self._providers, install.provider).identify(access, org=install.org)

    async def _connect(self, grant: PendingGrant, outcome: Identified | IdentityUnknown) -> Visit:
        install = grant.install
        identity = outcome.identity if isinstance(outcome, Identified) else None
        detail = outcome.why if isinstance(outcome, IdentityUnknown) else None
        maybe, note = await self._maybe(install, outcome)
        connected = await self._connector.connect(grant, identity, note=note, maybe=maybe)
        if isinstance(connected, Connected):
            account = connected.account
            await self._authorizer.note(
                Caller(install.created_by, (), frozenset(), credential="install"),
                "accounts.connect",
                account.name,
                install.provider,
                request_id=install.state_hash[:16],
            )
            if account.unusable:
                why = account.trouble.detail
                return Visit(install, InstallOutcome.FAILED, account.name, "token_unusable", detail=why)
            return Visit(
                install,
                InstallOutcome.CONNECTED,
                account.name,
                without_refresh_token=account.sealed_refresh is None and not account.is_endless,
            )
        return Visit(
            install,
            InstallOutcome.CONFLICT,
            install.account,
            connected.problem,
            detail=detail,
            in_the_way=connected.account,
        )

    async def _maybe(
        self, install: PendingInstall, outcome: Identified | IdentityUnknown
    ) -> tuple[tuple[str, ...], str | None]:
        """Accounts that may have this identity, where nobody can tell; and what an event says of it."""
        if isinstance(outcome, IdentityUnknown):
            if not outcome.why or outcome.why == NO_ENDPOINT:
                return (), None
            log.warning(
                "identity.unknown", provider=install.provider, account=install.account, why=outcome.why
            )
            return (), f"connected without an identity: {outcome.why}"
        provider = provider_named(self._providers, install.provider)
        maybe = await self._connector.complete_identity(provider, outcome.identity)
        for name in maybe:
            log.warning("identity.cut", account=name, provider=install.provider)
        note = f"the identity stored for {', '.join(maybe)} was cut, so it may be the same"
        return maybe, note if maybe else None

    async def _postpone(self, grant: PendingGrant) -> Visit:
        """A free name takes the grant meanwhile; a taken one keeps its old grant until the identity is known."""
        install = grant.install
        pending = Visit(install, InstallOutcome.IDENTITY_PENDING, install.account)
        if install.account is None or not await self._connector.name_is_free(install.account):
            return pending
        connected = await self._connector.connect(grant, None, identify_later=True)
        return (
            pending if isinstance(connected, Connected) else await self._connect(grant, IdentityUnknown(""))
        )

    async def _identify_again(self, grant: PendingGrant) -> Visit | None:
        now = self._clock.now()
        outcome = await self._ask_identity(grant)
        if isinstance(outcome, IdentityLater):
            wait = min(300.0, max(5.0, (now - grant.install.created_at) / 2))
            # When the access token has died there is nothing left to ask with.
            await self._store.retry_grant(
                grant.install.state_hash, now + wait if now < grant.expires_at else None
            )
            if now < grant.expires_at:
                return None
            outcome = IdentityUnknown("the access token died before the identity was known")
        if grant.install.outcome is InstallOutcome.CONNECTED:
            identity = outcome.identity if isinstance(outcome, Identified) else None
            _, note = await self._maybe(grant.install, outcome)
            await self._connector.identify(grant, identity, note)
            return None
        return await self._connect(grant, outcome)


def provider_named(providers: Mapping[str, OAuth2Provider], name: str) -> OAuth2Provider:
    """Return the configured provider of this name. Raises NotFound."""
    provider = providers.get(name)
    if provider is None:
        # Strangers read this, so it lists none.
        raise NotFound(f"There is no provider {name[:32]!r}.")
    return provider


def declined(install: PendingInstall, returned: Returned) -> Visit:
    """An answer without a code: the person said no, or the provider names another cause."""
    if returned.error in PROVIDER_ERRORS:
        return Visit(install, InstallOutcome.FAILED, install.account, returned.error, detail=returned.detail)
    return Visit(install, InstallOutcome.REFUSED, install.account, detail=returned.detail)


def _why(outcome: TokenOutcome) -> str:
    """The word for the page."""
    if isinstance(outcome, ClientRefused):
        return "not_installed" if outcome.not_installed else "client"
    return "provider"


async def _at_once() -> None:
    """An install's code needs no intent: its state was taken durably before."""
