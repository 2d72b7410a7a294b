"""Makes a held grant the next epoch of an account: identity, name, seal, one statement."""

from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from broker import oauth
from broker.clock import Clock
from broker.config.settings import RefreshSettings
from broker.encryption.keyring import DecryptionFailed, Keyring
from broker.encryption.tokens import TokenEncryption
from broker.errors import Conflict
from broker.installs.naming import Becomes, Conflicts, Problem, name_for, wanted_name
from broker.model import (
    Account,
    Event,
    EventKind,
    Identity,
    InstallOutcome,
    PendingGrant,
    Reason,
    Ref,
    Secret,
    Trouble,
)
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import Identified
from broker.store.accounts import AccountStore, TicketSpent
from broker.store.installs import InstallStore

log = structlog.get_logger()
RACES = 5
CUT = 200
"""Characters to which earlier versions cut an identity before they stored it."""
WINDOW_SHARE = 3


@dataclass(frozen=True, slots=True)
class Connected:
    """The grant is the account's."""

    account: Account


@dataclass(frozen=True, slots=True)
class NotConnected:
    """The grant became nobody's, and is forgotten."""

    problem: Problem
    account: str | None
    """The one that is in the way."""


class Connector:
    """The last step of an install, also when it comes late."""

    def __init__(
        self,
        *,
        accounts: AccountStore,
        installs: InstallStore,
        encryption: TokenEncryption,
        keyring: Keyring,
        clock: Clock,
        refresh: RefreshSettings,
    ) -> None:
        self._accounts, self._installs, self._encryption = accounts, installs, encryption
        self._keyring, self._clock, self._refresh = keyring, clock, refresh

    async def connect(
        self,
        grant: PendingGrant,
        identity: Identity | None,
        *,
        identify_later: bool = False,
        note: str | None = None,
        maybe: tuple[str, ...] = (),
    ) -> Connected | NotConnected:
        """Give the grant to the account it belongs to. `identify_later` keeps its access token with the install.

        `note`: what its event tells beside the connection. `maybe`: what `complete_identity` returned.
        The first durable one of several at once wins an epoch; the next takes the one behind it.
        """
        for _ in range(RACES):
            install = grant.install
            known = await self._known(install.provider, identity)
            wanted = wanted_name(install, identity, maybe)
            named = await self._living(wanted) if wanted else None
            naming = name_for(install, identity, known=known, named=named, maybe=maybe)
            if isinstance(naming, Conflicts):
                return await self._refuse(grant, naming.problem, naming.name)
            try:
                account = await self._store(grant, identity, naming, identify_later, note)
            except TicketSpent:
                return await self._refuse(grant, "link_used", naming.name)
            if account is not None:
                log.info(
                    "account.connected", account=account.name, epoch=account.epoch, provider=account.provider
                )
                return Connected(account)
        raise Conflict("the account is being connected by several people at once; try again")

    async def is_unusable(self, name: str) -> bool:
        """Whether the account's access token cannot be used."""
        account = await self._living(name)
        return account is not None and account.unusable

    async def complete_identity(self, provider: OAuth2Provider, identity: Identity) -> tuple[str, ...]:
        """Store the whole identity of each account whose stored one may be a cut form of this one; its own token asks
        for it. Return the names of those where that failed, so that nobody knows whether they are this one's."""
        start = identity.external_id[:CUT]
        if len(start) < CUT or await self._known(provider.name, identity) is not None:
            return ()
        stored = await self._accounts.maybe_cut(provider.name, start)
        return tuple([one.name for one in stored if not await self._complete(provider, one, start)])

    async def _complete(self, provider: OAuth2Provider, stored: Account, start: str) -> bool:
        access = None
        with suppress(DecryptionFailed):
            access = self._encryption.access_token(stored)
        if access is None or stored.unusable:
            return False
        outcome = await provider.identify(access, org=stored.org)
        if not isinstance(outcome, Identified) or not outcome.identity.external_id.startswith(start):
            return False
        await self._accounts.identify(
            stored.ref,
            external_id=outcome.identity.external_id,
            label=outcome.identity.label,
            at=self._clock.now(),
            grant="",
        )
        return True

    async def name_is_free(self, name: str) -> bool:
        """Whether nobody holds a grant under that name."""
        return await self._living(name) is None

    async def identify(self, grant: PendingGrant, identity: Identity | None, note: str | None) -> None:
        """A late identity for an account that was connected without: pinned, or frozen as a duplicate.

        `note`: what an event tells about it.
        """
        install, now = grant.install, self._clock.now()
        account = await self._living(install.outcome_account or "")
        if account is None:
            await self._installs.retry_grant(install.state_hash, None)
            return
        if account.external_id is not None:
            # It was connected again meanwhile, and that grant's identity is known.
            identity = note = None
        about = (account.name, account.provider)
        holder = await self._known(install.provider, identity)
        whose = f"the identity, known only now, is that of the account {holder.name}" if holder else None
        connected = Event(now, EventKind.CONNECTED, *about, None, account.generation, detail=note)
        frozen = Event(
            now, EventKind.FROZEN, *about, Reason.DUPLICATE_IDENTITY, account.generation, detail=whose
        )
        is_its_own = await self._accounts.identify(
            account.ref,
            external_id=identity.external_id if identity else None,
            label=identity.label if identity else None,
            at=now,
            grant=install.state_hash,
            events=[connected] if note else [],
            if_frozen=[frozen],
        )
        log.info("account.identified", account=account.name, duplicate=not is_its_own)

    async def _store(
        self,
        grant: PendingGrant,
        identity: Identity | None,
        naming: Becomes,
        identify_later: bool,
        note: str | None,
    ) -> Account | None:
        row = await self._accounts.get(naming.name)
        account = self._next_epoch(grant, identity, naming.name, row, await self._floor(naming.name, row))
        about = (account.name, account.provider)
        connected = EventKind.CONNECTED
        events = [Event(self._clock.now(), connected, *about, None, account.generation, detail=note)]
        if account.unusable:
            trouble, failing = account.trouble, EventKind.REFRESH_FAILING
            at = self._clock.now()
            events.append(
                Event(at, failing, *about, trouble.reason, account.generation, detail=trouble.detail)
            )
        window = min(self._refresh.ahead, account.life / WINDOW_SHARE)
        stored = await self._accounts.connect(
            account,
            expected=row.ref if row else None,
            next_at=account.expires_at - window,
            grant=grant.install.state_hash,
            events=events,
            keep_grant=identify_later,
        )
        return account if stored else None

    def _next_epoch(
        self, grant: PendingGrant, identity: Identity | None, name: str, row: Account | None, floor: Ref
    ) -> Account:
        install, now = grant.install, self._clock.now()
        access, refresh = self._opened(grant)
        ref = Ref(name, floor.epoch + 1, floor.generation + 1)
        sealed_access, sealed_refresh = self._encryption.encrypt(ref, access, refresh)
        old = row if row is not None and row.removed_at is None else None
        fresh = Account(
            name=name,
            provider=install.provider,
            epoch=ref.epoch,
            generation=ref.generation,
            client_id=install.client_id,
            sealed_access=sealed_access,
            sealed_refresh=sealed_refresh,
            token_type=grant.token_type,
            scope=grant.scope,
            issued_at=grant.issued_at,
            expires_at=grant.expires_at,
            refreshed_at=now,
            created_at=old.created_at if old else now,
            external_id=identity.external_id if identity else None,
            label=(identity.label if identity else None) or (old.label if old else None),
            subject=install.subject or (old.subject if old else None),
            org=install.org,
            last_used_at=old.last_used_at if old else None,
            grant_ends_at=grant.grant_ends_at,
        )
        if access is not None and not oauth.is_usable(access, grant.token_type):
            why = oauth.why_unusable(grant.token_type)
            trouble = Trouble(Reason.TOKEN_UNUSABLE, since=now, detail=why)
            fresh = replace(fresh, unusable=True, trouble=trouble)
        if old is not None and old.frozen is not None and old.frozen is not Reason.DUPLICATE_IDENTITY:
            return replace(fresh, frozen=old.frozen, frozen_since=old.frozen_since)
        return fresh

    def _opened(self, grant: PendingGrant) -> tuple[Secret | None, Secret | None]:
        state = grant.install.state_hash
        access = self._encryption.decrypt_pending(state, "access_token", grant.sealed_access)
        return access, self._encryption.decrypt_pending(state, "refresh_token", grant.sealed_refresh)

    async def _floor(self, name: str, row: Account | None) -> Ref:
        """Last epoch and generation of the name, also of a purged one: they never go back."""
        if row is not None:
            return row.ref
        purged = await self._accounts.purged(self._keyring.fingerprint("purged name", name))
        return Ref(name, *purged) if purged else Ref(name, 0, 0)

    async def _known(self, provider: str, identity: Identity | None) -> Account | None:
        return None if identity is None else await self._accounts.by_identity(provider, identity.external_id)

    async def _living(self, name: str) -> Account | None:
        row = await self._accounts.get(name)
        return row if row is not None and row.removed_at is None else None

    async def _refuse(self, grant: PendingGrant, problem: Problem, account: str | None) -> NotConnected:
        """The grant becomes nobody's."""
        await self._installs.finish_install(
            grant.install.state_hash,
            InstallOutcome.CONFLICT,
            account=account,
            spend=False,
            drop_grant=True,
            at=self._clock.now(),
        )
        return NotConnected(problem, account)
