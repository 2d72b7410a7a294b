"""Leases (R3), commits that the store has refused (R6), and renewals that an earlier process left open (R10)."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from broker.context import Context
from broker.encryption.keyring import DecryptionFailed
from broker.encryption.tokens import LATE
from broker.errors import StorageUnavailable
from broker.model import Account, Event, Intent, Spare, Successor
from broker.store.renewals import BOOT_WIDTH, Committed, EpochMoved, GenerationMoved
from broker.store.retained import COMMIT, Retained, Spool
from broker.tokens.flight import Flights
from broker.tokens.permit import Permit
from broker.tokens.schedule import Step, Timings, Watch, quarantine

log = structlog.get_logger()
AT_ONCE = 16
AGAIN_AFTER = 1.0


class LeaseLost(Exception):
    """The row has changed since it was read, or another process holds its lease, so nothing may be sent."""

    def __init__(self, account: Account) -> None:
        super().__init__(account.name)
        self.account = account


class Leases:
    """The leases of this process. They are asked before a renewal begins; the store's conditions decide (R3)."""

    def __init__(self, context: Context, permit: Permit) -> None:
        self._context, self._permit, self._timings = context, permit, permit.timings
        self._store, self._clock = context.stores.accounts, context.steady
        self.owner = f"{secrets.token_hex(BOOT_WIDTH // 2)}@{context.replica}"
        """`boot@replica`, which is written into the leases of this process."""
        self._length = context.settings.refresh.timeout + permit.timings.lease_extra

    async def announce(self, account: Account) -> Intent:
        """R3: write the intent, which is the lease; raises LeaseLost."""
        while True:
            intent, began = self.new_intent(account), self._clock.monotonic()
            if not await self._store.begin(account.ref, intent):
                raise LeaseLost(account)
            # A process that was stopped meanwhile writes it again: another may have taken the lease by now.
            if self._clock.monotonic() - began < self._length / 4:
                return intent

    def new_intent(self, account: Account) -> Intent:
        """Return an intent to renew the account from its current generation, not yet stored."""
        now = self._clock.now()
        return Intent(secrets.token_hex(8), account.generation, now, self.owner, now + self._length)

    async def is_free(self, account: Account) -> bool:
        """Return whether no renewal of the account is under way. If False, read the row again when it changes.

        An attempt whose process noted no outcome is counted as ambiguous here: our own if the store was away when its
        outcome came, another broker's when its lease has run out.
        """
        intent = account.intent
        if intent is None or intent.owner is None:
            return True
        own, now = intent.owner == self.owner, self._clock.now()
        # When the store has just come back, the other broker may still store what it has retained.
        if not own and self._context.store_health.up_for() < self._timings.adopt_after:
            return False
        not_before = now
        if own:
            grace = self._permit.grace(account)
            not_before = max(now, intent.at + quarantine(timed_out=True, grace=grace, timings=self._timings))
        if await self._store.orphaned(account.ref, intent.id, self.owner, at=now, not_before=not_before):
            log.warning("renewal.orphaned", account=account.name, generation=account.generation, own=own)
        return False


class RetainedCommits(Retained[Successor]):
    """The renewed token sets that the store has refused so far."""

    def __init__(self, context: Context, spool: Spool[Successor], timings: Timings, watch: Watch) -> None:
        super().__init__(
            COMMIT,
            spool,
            self._commit,
            clock=context.clock,
            health=context.health,
            readable=self._readable_part,
            spooled=lambda: watch(Step.SPOOLED),
            counted=context.metrics.retained_commits.set,
            first=timings.retain_first,
            most=timings.retain_most,
        )
        self._accounts, self._encryption = context.stores.accounts, context.encryption

    async def _commit(self, successor: Successor, events: Sequence[Event]) -> None:
        parent = successor.parent
        match await self._accounts.commit(successor, events):
            case Committed():
                return
            case EpochMoved():
                log.warning("commit.superseded", account=parent.name)
                return
            case GenerationMoved():
                pass
        # The same set may have been committed by the attempt that seemed to fail: then it is current already.
        current = await self._accounts.get(parent.name)
        if current is None or successor.sealed_refresh is None:
            return
        # Compared in clear, because one of them may have been encrypted anew. What cannot be decrypted differs.
        with suppress(DecryptionFailed):
            if self._encryption.refresh_token(successor) == self._encryption.refresh_token(current):
                return
        id_, sealed, at = f"{LATE}{secrets.token_hex(8)}", successor.sealed_refresh, successor.refreshed_at
        await self._accounts.add_spare(Spare(id_, parent.name, parent.epoch, parent.generation, sealed, at))

    def _readable_part(self, successor: Successor) -> Successor | None:
        """Return what can be decrypted of a spooled set, or None if it must not replace the stored tokens."""
        refresh = None
        try:
            refresh = self._encryption.refresh_token(successor)
            self._encryption.access_token(successor)
        except DecryptionFailed:
            # A refresh token alone is enough: it brings the next access token.
            return replace(successor, sealed_access=None, next_at=self._clock.now()) if refresh else None
        return successor


class Recovery:
    """The recovery at the start. It handles the unfinished renewals of an earlier process before any other."""

    def __init__(
        self,
        context: Context,
        *,
        retained: RetainedCommits,
        permit: Permit,
        flights: Flights,
        leases: Leases,
    ) -> None:
        self._store, self._clock = context.stores.accounts, context.steady
        self._retained, self._permit, self._flights = retained, permit, flights
        self._timings, self._owner = permit.timings, leases.owner
        self._replica = context.replica if context.is_shared else None
        """The replica whose earlier leases are taken over; None: all leases, because nobody shares the store."""
        self._is_late = False
        """The store refused writes at the start, so the leases are taken over as soon as it accepts them."""

    async def prepare(self) -> list[Account]:
        """Before READY, commit the spool and take over the leases of earlier processes.

        Return the accounts whose renewal was left without an outcome, newest first. Their valid tokens are served.
        """
        await self._retained.recover()
        return await self._take_over()

    async def renew(self, accounts: Sequence[Account]) -> None:
        """After READY, renew what was left open, each after its quarantine, which counts from its intent."""
        while self._is_late:
            await self._clock.sleep(AGAIN_AFTER)
            accounts = await self._take_over()
        places = asyncio.Semaphore(AT_ONCE)

        async def renew(account: Account) -> None:
            async with places:
                not_before = account.trouble.not_before or 0.0
                await self._clock.sleep(max(0.0, not_before - self._clock.now()))
                with suppress(Exception):  # it is logged already, and the background tries again
                    await self._flights.join(account.ref)

        await asyncio.gather(*map(renew, accounts))

    async def _take_over(self) -> list[Account]:
        try:
            opened = await self._store.take_over(self._owner, self._clock.now(), replica=self._replica)
            left_open = [await self._quarantined(account) for account in opened]
        except StorageUnavailable as exc:
            # Until it succeeds, the leases of the earlier process keep these accounts from being renewed.
            if not self._is_late:
                log.warning("recovery.waits_for_store", why=exc.detail)
            self._is_late = True
            return []
        self._is_late = False
        return left_open

    async def _quarantined(self, account: Account) -> Account:
        """Keep callers, too, from sending the token while the first request may still be processed."""
        log.warning("renewal.left_open", account=account.name, generation=account.generation)
        now = self._clock.now()
        # An intent in the future was written by a wrong clock.
        began = now if account.intent is None else min(now, account.intent.at)
        free_at = began + quarantine(
            timed_out=False, grace=self._permit.grace(account), timings=self._timings
        )
        trouble = replace(account.trouble, not_before=free_at)
        await self._store.settle(
            account.ref,
            trouble=trouble,
            keep_intent=True,
            dead=account.dead,
            next_at=None if account.dead or account.frozen or account.removed_at else free_at,
            at=account.dead_since or now,
            free_after=max(0.0, free_at - now),
        )
        return account.with_trouble(trouble)
