"""The exchange: redeems an authorization code, asks the provider for the account's identity, and connects it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from broker.context import Context
from broker.encryption.tokens import ACCESS, REFRESH, VERIFIER
from broker.errors import NotFound, StorageUnavailable
from broker.installs.connect import Connector, IdentityConflict
from broker.model import InstallOutcome, PendingGrant, PendingInstall, Secret
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
    TokenRequest,
    cause_of,
)
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
"""The errors of RFC 6749 4.1.2.1 that are not the user's decision, and `other` for any other word."""
KNOWN_ERRORS = PROVIDER_ERRORS | {"access_denied"}
DECISION = re.compile("denied|declined|rejected|cancel", re.IGNORECASE)
"""A user's decision in a provider's own words: `user_denied`, `user_cancelled_authorize` (LinkedIn)."""


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """The authorization response that the browser brought back (RFC 6749 4.1.2, RFC 9207)."""

    state: Secret
    code: Secret | None
    error: str | None
    """An error of RFC 6749 4.1.2.1, `denied` for a user's decision in other words, or `other`."""
    iss: str | None
    detail: str | None = None
    """The provider's error and description, cleaned."""


@dataclass(frozen=True, slots=True)
class InstallResult:
    """The result of an install, for its page, the log and the event."""

    install: PendingInstall
    outcome: InstallOutcome
    account: str | None
    why: str | None = None
    """A key of the page's texts: `client`, `not_installed`, `provider`, `storage`, or the problem of a conflict."""
    without_refresh_token: bool = False
    detail: str | None = None
    """The provider's answer, or the failure of the connection; for the log and the event, not for the page."""
    conflicting: str | None = None
    """The existing account because of which nothing was connected."""


class Exchange:
    """The part of an install that calls the provider, from the authorization code to the account."""

    def __init__(self, context: Context, *, later: Retained[PendingGrant]) -> None:
        self._context, self._later, self._connector = context, later, Connector(context)
        self._store, self._clock = context.stores.installs, context.steady

    async def redeem(self, install: PendingInstall, code: Secret) -> InstallResult:
        """Redeem the code once, and store the grant durably before the provider is asked for anything else."""
        provider = provider_named(self._context.providers, install.provider)
        state_hash, encryption = install.state_hash, self._context.encryption
        request = TokenRequest(
            grant=Grant.CODE,
            token=code,
            client_id=install.client_id,
            org=install.org,
            redirect_uri=install.redirect_uri,
            verifier=encryption.decrypt_pending(state_hash, VERIFIER, install.sealed_verifier),
        )
        outcome = await provider.request_token(request, before_send=_no_intent)
        if isinstance(outcome, ClientRefused) and provider.secrets_of(install.client_id) > 1:
            outcome = await provider.request_token(replace(request, secret_index=1), before_send=_no_intent)
        if not isinstance(outcome, Granted):
            why = "provider"
            if isinstance(outcome, ClientRefused):
                why = "not_installed" if outcome.not_installed else "client"
            return InstallResult(
                install, InstallOutcome.FAILED, install.account, why, detail=cause_of(outcome)
            )
        tokens = outcome.tokens
        grant = PendingGrant(
            install=install,
            sealed_access=encryption.encrypt_pending(state_hash, ACCESS, tokens.access_token),
            sealed_refresh=encryption.encrypt_pending(state_hash, REFRESH, tokens.refresh_token),
            token_type=tokens.token_type,
            scope=tokens.scope or "",
            issued_at=tokens.issued_at,
            expires_at=tokens.expires_at,
            # After a crash between here and the account, the next start asks for the identity.
            next_at=self._clock.now() + 5,
            grant_ends_at=tokens.refresh_expires_at,
        )
        pending = InstallResult(install, InstallOutcome.IDENTITY_PENDING, install.account)
        try:
            await self._store.hold_grant(grant)
        except StorageUnavailable:
            await self._later.keep(grant)
            return replace(pending, why="storage")
        identity = await self._ask_identity(grant)
        if not isinstance(identity, IdentityLater):
            return await self._connect(grant, identity)
        log.warning("identity.postponed", provider=install.provider, why=identity.why)
        if install.account is not None and await self._connector.account(install.account) is None:
            # A new account gets the grant now; an existing one keeps its old grant until the identity is known.
            connected = await self._connector.connect(grant, None, identify_later=True)
            if isinstance(connected, IdentityConflict):
                return _conflict(install, connected)
        return pending

    async def identify_again(self, grant: PendingGrant) -> InstallResult | None:
        """Ask again for an identity that was not available. Return the install's result if it ends now, else None."""
        now, install = self._clock.now(), grant.install
        outcome = await self._ask_identity(grant)
        if isinstance(outcome, IdentityLater):
            is_alive = now < grant.expires_at
            wait = min(300.0, max(5.0, (now - install.created_at) / 2))
            await self._store.retry_grant(install.state_hash, now + wait if is_alive else None)
            if is_alive:
                return None
            outcome = IdentityUnknown("the access token expired before the identity was known")
        if install.outcome is not InstallOutcome.CONNECTED:
            return await self._connect(grant, outcome)
        identity = outcome.identity if isinstance(outcome, Identified) else None
        _, note = await self._maybe(install, outcome)
        await self._connector.identify(grant, identity, note)
        return None

    async def _ask_identity(self, grant: PendingGrant) -> IdentityOutcome:
        install = grant.install
        access = self._context.encryption.decrypt_pending(install.state_hash, ACCESS, grant.sealed_access)
        if access is None:
            return IdentityUnknown("there is no access token to ask with")
        provider = provider_named(self._context.providers, install.provider)
        return await provider.identify(access, org=install.org)

    async def _connect(self, grant: PendingGrant, outcome: Identified | IdentityUnknown) -> InstallResult:
        install = grant.install
        maybe, note = await self._maybe(install, outcome)
        identity = outcome.identity if isinstance(outcome, Identified) else None
        account = await self._connector.connect(grant, identity, note=note, maybe=maybe)
        if isinstance(account, IdentityConflict):
            return _conflict(install, account, outcome.why if isinstance(outcome, IdentityUnknown) else None)
        if account.unusable:
            why = account.trouble.detail
            return InstallResult(install, InstallOutcome.FAILED, account.name, "token_unusable", detail=why)
        ends = account.sealed_refresh is None and not account.is_endless
        return InstallResult(install, InstallOutcome.CONNECTED, account.name, without_refresh_token=ends)

    async def _maybe(
        self, install: PendingInstall, outcome: Identified | IdentityUnknown
    ) -> tuple[tuple[str, ...], str | None]:
        """Return the accounts that may have this identity because theirs is incomplete, and a detail for the event."""
        if isinstance(outcome, IdentityUnknown):
            if not outcome.why or outcome.why == NO_ENDPOINT:
                return (), None
            log.warning(
                "identity.unknown", provider=install.provider, account=install.account, why=outcome.why
            )
            return (), f"connected without an identity: {outcome.why}"
        provider = provider_named(self._context.providers, install.provider)
        maybe = await self._connector.complete_identity(provider, outcome.identity)
        note = f"the identity stored for {', '.join(maybe)} was cut, so it may be the same"
        return maybe, note if maybe else None


def provider_named(providers: Mapping[str, OAuth2Provider], name: str) -> OAuth2Provider:
    """Return the configured provider of this name. Raises NotFound."""
    provider = providers.get(name)
    if provider is None:
        # Unknown users read this, so it does not list the providers.
        raise NotFound(f"There is no provider {name[:32]!r}.")
    return provider


def declined(install: PendingInstall, response: AuthorizationResponse) -> InstallResult:
    """Return the result of a response without a code: the user declined, or the provider names another error."""
    outcome = InstallOutcome.FAILED if response.error in PROVIDER_ERRORS else InstallOutcome.REFUSED
    return InstallResult(install, outcome, install.account, response.error, detail=response.detail)


def _conflict(
    install: PendingInstall, conflict: IdentityConflict, detail: str | None = None
) -> InstallResult:
    outcome, why = InstallOutcome.CONFLICT, conflict.problem
    return InstallResult(install, outcome, install.account, why, detail=detail, conflicting=conflict.name)


async def _no_intent() -> None:
    """Record no intent for a code: its state was marked as used durably before."""
