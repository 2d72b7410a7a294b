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
    window_opens,
)
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import Identified
from broker.store.accounts import TicketSpent

log = structlog.get_logger()
RACES = 5
CUT = 200
"""Characters to which earlier versions cut an external id before they stored it."""
LONGEST_NAME = 128
Problem = Literal["other_name", "other_subject", "other_identity", "unknown_identity", "no_name", "link_used"]


@dataclass(frozen=True, slots=True)
class IdentityConflict:
    """The reason why a grant must not be given to any account."""

    problem: Problem
    name: str | None
    """The account that the grant conflicts with."""


def derived_name(provider: str, external_id: str) -> str:
    """Return an account name like `kit-123`: lower-cased, with `-` for characters that a name must not contain."""
    name = re.sub(r"[^a-z0-9._-]", "-", f"{provider}-{external_id}".lower(), flags=re.ASCII)
    if len(name) <= LONGEST_NAME:
        return name
    # Two long ids may differ only in the part that is cut off.
    return f"{name[: LONGEST_NAME - 13]}-{hashlib.sha256(external_id.encode()).hexdigest()[:12]}"


def wanted_name(install: PendingInstall, identity: Identity | None, maybe: tuple[str, ...] = ()) -> str:
    """Return the name that the link gives, or the one derived from the identity; empty if there is neither."""
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
) -> str | IdentityConflict:
    """Return the name of the account that the grant becomes.

    `known`: the account that already has this identity. `named`: the row, if any, of `wanted_name`. `maybe`: accounts
    that may have this identity, because only a part of theirs is stored.
    """
    if known is not None:
        if install.account not in (None, known.name):
            return IdentityConflict("other_name", known.name)
        account = known
    else:
        name = wanted_name(install, identity, maybe)
        if not name:
            return IdentityConflict("no_name", None)
        if named is None:
            return name
        external_id = identity.external_id if identity else None
        is_other = named.provider != install.provider or named.external_id not in (None, external_id)
        if not install.replace and (name in maybe or is_other):
            is_unknown = identity is None and named.provider == install.provider
            return IdentityConflict("unknown_identity" if is_unknown else "other_identity", named.name)
        account = named
    if not install.replace and len({install.subject, account.subject} - {None}) > 1:
        return IdentityConflict("other_subject", account.name)
    return account.name


class Connector:
    """Turns a grant into an account: the last step of an install, also if the identity becomes known late."""

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
    ) -> Account | IdentityConflict:
        """Give the grant to its account and end the install, in one transaction. A conflict stores nothing.

        `identify_later` keeps the grant with the install. `note`: a detail for the event of the connection. `maybe`:
        what `complete_identity` returned. Concurrent installs of one account take one epoch each. Raises Conflict.
        """
        install = grant.install
        for _ in range(RACES):
            known = await self._of_identity(install.provider, identity)
            wanted = wanted_name(install, identity, maybe)
            named = await self.account(wanted) if wanted else None
            name = name_for(install, identity, known=known, named=named, maybe=maybe)
            if isinstance(name, IdentityConflict):
                return name
            row = await self._accounts.get(name)
            account = self._next_epoch(grant, identity, row, await self._context.last_ref(name, row))
            now, trouble = self._clock.now(), account.trouble
            events = [Event.of(account, EventKind.CONNECTED, now, detail=note)]
            if account.unusable:
                kind = EventKind.REFRESH_FAILING
                events.append(Event.of(account, kind, now, trouble.reason, detail=trouble.detail))
            try:
                is_stored = await self._accounts.connect(
                    account,
                    expected=row.ref if row else None,
                    next_at=window_opens(account, self._context.settings.refresh.ahead),
                    grant=install.state_hash,
                    events=events,
                    keep_grant=identify_later,
                )
            except TicketSpent:
                return IdentityConflict("link_used", name)
            if is_stored:
                log.info("account.connected", account=name, epoch=account.epoch, provider=account.provider)
                caller = Caller(install.created_by, (), frozenset(), credential="install")
                await self._context.authorizer.note(
                    caller, "accounts.connect", name, install.provider, request_id=install.state_hash[:16]
                )
                return account
        raise Conflict("several users are connecting this account at the same time; try again")

    async def account(self, name: str) -> Account | None:
        """Return the account of that name, unless it was removed."""
        row = await self._accounts.get(name)
        return row if row is not None and row.removed_at is None else None

    async def complete_identity(self, provider: OAuth2Provider, identity: Identity) -> tuple[str, ...]:
        """Store the whole identity of each account whose stored one may be a cut form of this one.

        The account's own token is used to ask for it. Return the names of the accounts where that failed, so that
        they may have this identity.
        """
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
                    id_, label, at = outcome.identity.external_id, outcome.identity.label, self._clock.now()
                    await self._accounts.identify(stored.ref, external_id=id_, label=label, at=at, grant="")
                    continue
            log.warning("identity.cut", account=stored.name, provider=provider.name)
            failed.append(stored.name)
        return tuple(failed)

    async def identify(self, grant: PendingGrant, identity: Identity | None, note: str | None) -> None:
        """Store the late identity of an account that was connected without one, or freeze it as a duplicate.

        `note`: a detail for the event of the connection, which is stored only if there is one.
        """
        install, now = grant.install, self._clock.now()
        account = await self.account(install.outcome_account or "")
        if account is None:
            await self._context.stores.installs.retry_grant(install.state_hash, None)
            return
        if account.external_id is not None:
            # It was connected again meanwhile, and that grant's identity is known.
            identity = note = None
        holder = await self._of_identity(install.provider, identity)
        whose = f"the identity, known only now, is that of the account {holder.name}" if holder else None
        duplicate = Reason.DUPLICATE_IDENTITY
        is_its_own = await self._accounts.identify(
            account.ref,
            external_id=identity.external_id if identity else None,
            label=identity.label if identity else None,
            at=now,
            grant=install.state_hash,
            events=[Event.of(account, EventKind.CONNECTED, now, detail=note)] if note else [],
            if_frozen=[Event.of(account, EventKind.FROZEN, now, duplicate, detail=whose)],
        )
        log.info("account.identified", account=account.name, duplicate=not is_its_own)

    def _next_epoch(
        self, grant: PendingGrant, identity: Identity | None, row: Account | None, last: Ref
    ) -> Account:
        """Return the account with the new grant, one epoch and generation after `last`."""
        install, now, encryption = grant.install, self._clock.now(), self._context.encryption
        access = encryption.decrypt_pending(install.state_hash, ACCESS, grant.sealed_access)
        refresh = encryption.decrypt_pending(install.state_hash, REFRESH, grant.sealed_refresh)
        ref = Ref(last.name, last.epoch + 1, last.generation + 1)
        encrypted_access, encrypted_refresh = encryption.encrypt(ref, access, refresh)
        old = row if row is not None and row.removed_at is None else None
        account = Account(
            name=ref.name,
            provider=install.provider,
            epoch=ref.epoch,
            generation=ref.generation,
            client_id=install.client_id,
            sealed_access=encrypted_access,
            sealed_refresh=encrypted_refresh,
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
            account = replace(account, unusable=True, trouble=trouble)
        if old is not None and old.frozen not in (None, Reason.DUPLICATE_IDENTITY):
            return replace(account, frozen=old.frozen, frozen_since=old.frozen_since)
        return account

    async def _of_identity(self, provider: str, identity: Identity | None) -> Account | None:
        return None if identity is None else await self._accounts.by_identity(provider, identity.external_id)
