"""Decides which account a new grant becomes, and makes it that account's next epoch in one transaction."""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from broker import oauth
from broker.context import Context
from broker.encryption.keyring import DecryptionFailed
from broker.encryption.tokens import ACCESS, REFRESH
from broker.errors import Conflict
from broker.model import (
    Account,
    Caller,
    Event,
    EventKind,
    Identity,
    PendingGrant,
    PendingInstall,
    Reason,
    Ref,
    Trouble,
)
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import Identified
from broker.store.accounts import TicketSpent

log = structlog.get_logger()
RACES = 5
CUT = 200
"""Characters to which earlier versions cut an identity before they stored it."""
WINDOW_SHARE = 3
MOST_NAME = 128
Problem = Literal["other_name", "other_subject", "other_identity", "no_name", "link_used"]


@dataclass(frozen=True, slots=True)
class Conflicts:
    """The grant must not become any account's."""

    problem: Problem
    name: str | None
    """The account that is in the way."""


def derived_name(provider: str, external_id: str) -> str:
    """Return a name like `kit-123`: lower-cased, with `-` for what a name cannot hold."""
    name = re.sub(r"[^a-z0-9._-]", "-", f"{provider}-{external_id}".lower(), flags=re.ASCII)
    if len(name) <= MOST_NAME:
        return name
    # Two long ids may differ only behind the cut.
    return f"{name[: MOST_NAME - 13]}-{hashlib.sha256(external_id.encode()).hexdigest()[:12]}"


def wanted_name(install: PendingInstall, identity: Identity | None, maybe: tuple[str, ...] = ()) -> str:
    """Return the link's name, or the one that follows from the identity; empty where there is neither."""
    if install.account is not None or identity is None:
        return install.account or ""
    name = derived_name(install.provider, identity.external_id)
    # An identity has no line break, so this one is nobody else's.
    return derived_name(install.provider, f"{identity.external_id}\n") if name in maybe else name


def name_for(
    install: PendingInstall,
    identity: Identity | None,
    *,
    known: Account | None,
    named: Account | None,
    maybe: tuple[str, ...] = (),
) -> str | Conflicts:
    """Return the name of the account that the grant becomes.

    `known`: the account that already belongs to the identity. `named`: the row, if any, of `wanted_name`. `maybe`:
    accounts whose identity may be this one; nobody knows.
    """
    if known is not None:
        if install.account not in (None, known.name):
            return Conflicts("other_name", known.name)
        account = known
    else:
        name = wanted_name(install, identity, maybe)
        if not name:
            return Conflicts("no_name", None)
        if named is None:
            return name
        external_id = identity.external_id if identity else None
        is_other = named.provider != install.provider or named.external_id not in (None, external_id)
        if not install.replace and (name in maybe or is_other):
            return Conflicts("other_identity", named.name)
        account = named
    if not install.replace and len({install.subject, account.subject} - {None}) > 1:
        return Conflicts("other_subject", account.name)
    return account.name


class Connector:
    """The last step of an install, also when it comes late."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._accounts, self._clock = context.stores.accounts, context.steady

    async def connect(
        self,
        grant: PendingGrant,
        identity: Identity | None,
        *,
        identify_later: bool = False,
        note: str | None = None,
        maybe: tuple[str, ...] = (),
    ) -> Account | Conflicts:
        """Give the grant to its account and end the install, in one transaction. Of a conflict nothing is stored.

        `identify_later` keeps the grant with the install. `note`: what its event tells beside the connection.
        `maybe`: what `complete_identity` returned. Of several at once each takes an epoch. Raises Conflict.
        """
        install = grant.install
        for _ in range(RACES):
            known = await self._of_identity(install.provider, identity)
            wanted = wanted_name(install, identity, maybe)
            named = await self.account(wanted) if wanted else None
            name = name_for(install, identity, known=known, named=named, maybe=maybe)
            if isinstance(name, Conflicts):
                return name
            row = await self._accounts.get(name)
            if row is not None:
                floor = row.ref
            else:
                # Epoch and generation of a name never go back, also not once it was purged.
                purged = await self._accounts.purged(self._context.keyring.fingerprint("purged name", name))
                floor = Ref(name, *(purged or (0, 0)))
            account = self._next_epoch(grant, identity, row, floor)
            about = (account.name, account.provider)
            now, trouble = self._clock.now(), account.trouble
            events = [Event(now, EventKind.CONNECTED, *about, None, account.generation, detail=note)]
            if account.unusable:
                failing = EventKind.REFRESH_FAILING
                events.append(
                    Event(now, failing, *about, trouble.reason, account.generation, detail=trouble.detail)
                )
            try:
                is_stored = await self._accounts.connect(
                    account,
                    expected=row.ref if row else None,
                    next_at=account.expires_at
                    - min(self._context.settings.refresh.ahead, account.life / WINDOW_SHARE),
                    grant=install.state_hash,
                    events=events,
                    keep_grant=identify_later,
                )
            except TicketSpent:
                return Conflicts("link_used", name)
            if is_stored:
                log.info("account.connected", account=name, epoch=account.epoch, provider=account.provider)
                who = Caller(install.created_by, (), frozenset(), credential="install")
                await self._context.authorizer.note(
                    who, "accounts.connect", name, install.provider, request_id=install.state_hash[:16]
                )
                return account
        raise Conflict("the account is being connected by several people at once; try again")

    async def account(self, name: str) -> Account | None:
        """Return the account of that name, unless it was removed."""
        row = await self._accounts.get(name)
        return row if row is not None and row.removed_at is None else None

    async def complete_identity(self, provider: OAuth2Provider, identity: Identity) -> tuple[str, ...]:
        """Store the whole identity of each account whose stored one may be a cut form of this one; its own token asks
        for it. Return the names of those where that failed, so that nobody knows whether they are this one's."""
        start = identity.external_id[:CUT]
        if len(start) < CUT or await self._of_identity(provider.name, identity) is not None:
            return ()
        failed = []
        for stored in await self._accounts.maybe_cut(provider.name, start):
            access = None
            with suppress(DecryptionFailed):
                access = self._context.encryption.access_token(stored)
            if access is not None and not stored.unusable:
                outcome = await provider.identify(access, org=stored.org)
                if isinstance(outcome, Identified) and outcome.identity.external_id.startswith(start):
                    found = outcome.identity
                    await self._accounts.identify(
                        stored.ref,
                        external_id=found.external_id,
                        label=found.label,
                        at=self._clock.now(),
                        grant="",
                    )
                    continue
            log.warning("identity.cut", account=stored.name, provider=provider.name)
            failed.append(stored.name)
        return tuple(failed)

    async def identify(self, grant: PendingGrant, identity: Identity | None, note: str | None) -> None:
        """Store a late identity of an account that was connected without, or freeze the account as a duplicate.

        `note`: what an event tells about it.
        """
        install, now = grant.install, self._clock.now()
        account = await self.account(install.outcome_account or "")
        if account is None:
            await self._context.stores.installs.retry_grant(install.state_hash, None)
            return
        if account.external_id is not None:
            # It was connected again meanwhile, and that grant's identity is known.
            identity = note = None
        about = (account.name, account.provider)
        holder = await self._of_identity(install.provider, identity)
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

    def _next_epoch(
        self, grant: PendingGrant, identity: Identity | None, row: Account | None, floor: Ref
    ) -> Account:
        install, now = grant.install, self._clock.now()
        access = self._context.encryption.decrypt_pending(install.state_hash, ACCESS, grant.sealed_access)
        refresh = self._context.encryption.decrypt_pending(install.state_hash, REFRESH, grant.sealed_refresh)
        ref = Ref(floor.name, floor.epoch + 1, floor.generation + 1)
        sealed_access, sealed_refresh = self._context.encryption.encrypt(ref, access, refresh)
        old = row if row is not None and row.removed_at is None else None
        fresh = Account(
            name=ref.name,
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
            fresh = replace(
                fresh, unusable=True, trouble=Trouble(Reason.TOKEN_UNUSABLE, since=now, detail=why)
            )
        if old is not None and old.frozen not in (None, Reason.DUPLICATE_IDENTITY):
            return replace(fresh, frozen=old.frozen, frozen_since=old.frozen_since)
        return fresh

    async def _of_identity(self, provider: str, identity: Identity | None) -> Account | None:
        return None if identity is None else await self._accounts.by_identity(provider, identity.external_id)
