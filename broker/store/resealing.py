"""Stores that seal anew what was sealed with a key that has just ceased to be the active one."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from broker.errors import StorageUnavailable
from broker.keyring import KeyNotActive, SealBroken
from broker.model import Account, Event, PendingGrant, PendingInstall, Ref, Spare, Successor
from broker.sealing import Reseals
from broker.store.accounts import AccountStore
from broker.store.database import Database
from broker.store.imports import AddOutcome, ImportStore
from broker.store.installs import InstallStore
from broker.store.renewals import CommitOutcome

V = TypeVar("V")
R = TypeVar("R")
TRIES = 3

log = structlog.get_logger()


class ResealingAccounts(AccountStore):
    """The `AccountStore` on a guarded database."""

    def __init__(self, database: Database, *, changed: Callable[[str], None], reseals: Reseals) -> None:
        super().__init__(database, changed=changed)
        self._reseals = reseals

    async def commit(self, successor: Successor, events: Sequence[Event]) -> CommitOutcome:
        store = super().commit
        return await _sealed_for(lambda one: store(one, events), successor, self._reseals.successor)

    async def add_spare(self, spare: Spare) -> None:
        await _sealed_for(super().add_spare, spare, self._reseals.spare)

    async def connect(
        self,
        account: Account,
        *,
        expected: Ref | None,
        next_at: float | None,
        grant: str | None,
        events: Sequence[Event],
        keep_grant: bool = False,
    ) -> bool:
        store = super().connect
        return await _sealed_for(
            lambda one: store(
                one, expected=expected, next_at=next_at, grant=grant, events=events, keep_grant=keep_grant
            ),
            account,
            self._reseals.account,
        )

    async def rename(
        self,
        ref: Ref,
        renamed: Account,
        *,
        spares: Sequence[Spare],
        next_at: float | None,
        old_name_hash: str,
    ) -> bool:
        store = super().rename
        return await _sealed_for(
            lambda one: store(ref, one[0], spares=one[1], next_at=next_at, old_name_hash=old_name_hash),
            (renamed, spares),
            lambda one: (self._reseals.account(one[0]), [self._reseals.spare(each) for each in one[1]]),
        )


class ResealingImports(ImportStore):
    """The `ImportStore` on a guarded database."""

    def __init__(self, database: Database, *, changed: Callable[[str], None], reseals: Reseals) -> None:
        super().__init__(database, changed=changed)
        self._reseals = reseals

    async def add(
        self,
        account: Account,
        *,
        expected: Ref | None,
        next_at: float | None,
        grant_hash: str,
        events: Sequence[Event],
    ) -> AddOutcome:
        store = super().add
        return await _sealed_for(
            lambda one: store(one, expected=expected, next_at=next_at, grant_hash=grant_hash, events=events),
            account,
            self._reseals.account,
        )


class ResealingInstalls(InstallStore):
    """The `InstallStore` on a guarded database."""

    def __init__(self, database: Database, *, reseals: Reseals) -> None:
        super().__init__(database)
        self._reseals = reseals

    async def begin_install(self, install: PendingInstall) -> None:
        await _sealed_for(super().begin_install, install, self._reseals.install)

    async def claim_install(self, install: PendingInstall) -> bool:
        return await _sealed_for(super().claim_install, install, self._reseals.install)

    async def hold_grant(self, grant: PendingGrant) -> None:
        await _sealed_for(super().hold_grant, grant, self._reseals.grant)


async def _sealed_for(store: Callable[[V], Awaitable[R]], value: V, reseal: Callable[[V], V]) -> R:
    """Store `value`, sealed anew as often as the active key changes meanwhile; raises StorageUnavailable."""
    for _ in range(TRIES):
        try:
            return await store(value)
        except KeyNotActive as exc:
            log.info("record.sealed_anew", why=str(exc))
            try:
                value = reseal(value)
            except SealBroken as broken:
                raise StorageUnavailable("a record cannot be sealed anew", retry_after=1) from broken
    raise StorageUnavailable("the active data key cannot be opened here", retry_after=1)
