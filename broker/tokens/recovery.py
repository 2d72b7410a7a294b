"""Leases (R3), commits that the store has refused (R6), and what an earlier boot left open (R10)."""

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
from broker.store.retained import COMMIT, Retained
from broker.store.spool import Spool
from broker.tokens.flight import Flights
from broker.tokens.permit import Permit
from broker.tokens.schedule import Step, Timings, Watch, quarantine

log = structlog.get_logger()
AT_ONCE = 16
AGAIN_AFTER = 1.0


class LeaseLost(Exception):
    """The row was not as it was read, or another process holds its lease: nothing may be sent."""

    def __init__(self, account: Account) -> None:
        super().__init__(account.name)
        self.account = account


class Leases:
    """Asked before a renewal begins; the store's conditions have the last word (R3)."""

    def __init__(self, context: Context, *, permit: Permit, timings: Timings) -> None:
        self._context, self._permit, self._timings = context, permit, timings
        self._store, self._clock = context.stores.accounts, context.steady
        self.owner = f"{secrets.token_hex(BOOT_WIDTH // 2)}@{context.replica}"
        """`boot@replica`, which is written into the leases of this process."""
        self._length = context.settings.refresh.timeout + timings.lease_extra

    async def announce(self, account: Account) -> Intent:
        """R3: write the intent, which is the lease; raises LeaseLost."""
        while True:
            intent, began = self.new_intent(account), self._clock.monotonic()
            if not await self._store.begin(account.ref, intent):
                raise LeaseLost(account)
            # Whoever was stopped meanwhile asks again: the lease may be another's by now.
            if self._clock.monotonic() - began < self._length / 4:
                return intent

    def new_intent(self, account: Account) -> Intent:
        now = self._clock.now()
        return Intent(secrets.token_hex(8), account.generation, now, self.owner, now + self._length)

    async def is_free(self, account: Account) -> bool:
        """Whether nobody is at this account; False: look at the row again when it has changed.

        An attempt that ended without a word counts as ambiguous from now on: our own if the store was away when its
        outcome came, another broker's when its lease has run out.
        """
        intent = account.intent
        if intent is None or intent.owner is None:
            return True
        own, now = intent.owner == self.owner, self._clock.now()
        # A store that has just come back may yet be given what the other one has retained.
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
    """The successors of renewals that the store has not taken yet."""

    def __init__(self, context: Context, spool: Spool[Successor], timings: Timings, watch: Watch) -> None:
        super().__init__(
            COMMIT,
            spool,
            self._commit,
            clock=context.clock,
            health=context.health,
            readable=self._in_the_spool,
            spooled=lambda: watch(Step.SPOOLED),
            counted=context.metrics.retained_commits.set,
            first=timings.retain_first,
            most=timings.retain_most,
        )
        self._accounts, self._encryption = context.stores.accounts, context.encryption

    async def _commit(self, successor: Successor, events: Sequence[Event]) -> None:
        match await self._accounts.commit(successor, events):
            case Committed():
                pass
            case GenerationMoved():
                await self._keep_as_spare(successor)
            case EpochMoved():
                log.warning("commit.superseded", account=successor.parent.name)

    async def _keep_as_spare(self, successor: Successor) -> None:
        parent = successor.parent
        # The same set may have been committed by the attempt that seemed to fail: then it is current already.
        current = await self._accounts.get(parent.name)
        if current is None or successor.sealed_refresh is None:
            return
        # Compared in clear: one of them may have been encrypted anew since. What cannot be decrypted is another.
        with suppress(DecryptionFailed):
            if self._encryption.refresh_token(successor) == self._encryption.refresh_token(current):
                return
        await self._accounts.add_spare(
            Spare(
                id=f"{LATE}{secrets.token_hex(8)}",
                account=parent.name,
                epoch=parent.epoch,
                generation=parent.generation,
                sealed=successor.sealed_refresh,
                received_at=successor.refreshed_at,
            )
        )

    def _in_the_spool(self, successor: Successor) -> Successor | None:
        """Return what can be decrypted of it; None if that must not replace the stored tokens, which may still work."""
        refresh = None
        try:
            refresh = self._encryption.refresh_token(successor)
            self._encryption.access_token(successor)
        except DecryptionFailed:
            # A refresh token alone is enough: it brings the next access token.
            return replace(successor, sealed_access=None, next_at=self._clock.now()) if refresh else None
        return successor


class Recovery:
    """Boot, before and after READY."""

    def __init__(
        self,
        context: Context,
        *,
        retained: RetainedCommits,
        permit: Permit,
        flights: Flights,
        leases: Leases,
        timings: Timings,
    ) -> None:
        self._store, self._clock = context.stores.accounts, context.steady
        self._retained, self._permit, self._flights = retained, permit, flights
        self._timings, self._owner = timings, leases.owner
        self._replica = context.replica if context.is_shared else None
        """Whose earlier boots' leases are ours; None: everybody's, since the store is."""
        self._is_late = False
        """Whether the store took no write at the start; what was left open is taken over as soon as it does."""

    async def prepare(self) -> list[Account]:
        """Before READY: the spool is committed, where the store takes it, and the leases of earlier boots are ours.
        Living tokens are served from now on. The accounts whose renewal was left open, newest first."""
        await self._retained.recover()
        return await self._take_over()

    async def renew(self, accounts: Sequence[Account]) -> None:
        """After READY: renew what was left open, each after its quarantine, which counts from its intent."""
        while self._is_late:
            await self._clock.sleep(AGAIN_AFTER)
            accounts = await self._take_over()
        places = asyncio.Semaphore(AT_ONCE)

        async def renew(account: Account) -> None:
            async with places:
                not_before = account.trouble.not_before or 0.0
                await self._clock.sleep(max(0.0, not_before - self._clock.now()))
                with suppress(Exception):  # the flight has logged it; the background tries again
                    await self._flights.join(account.ref)

        await asyncio.gather(*map(renew, accounts))

    async def _take_over(self) -> list[Account]:
        try:
            opened = await self._store.take_over(self._owner, self._clock.now(), replica=self._replica)
            left_open = [await self._quarantined(account) for account in opened]
        except StorageUnavailable as exc:
            # Until it succeeds, the leases of the earlier boot keep these accounts from being renewed.
            if not self._is_late:
                log.warning("recovery.waits_for_store", why=exc.detail)
            self._is_late = True
            return []
        self._is_late = False
        return left_open

    async def _quarantined(self, account: Account) -> Account:
        """No caller either may send the token again before the first request can no longer be processed."""
        log.warning("renewal.left_open", account=account.name, generation=account.generation)
        now = self._clock.now()
        # An intent in the future was noted by a wrong clock.
        began = now if account.intent is None else min(now, account.intent.at)
        wait = quarantine(timed_out=False, grace=self._permit.grace(account), timings=self._timings)
        trouble = replace(account.trouble, not_before=began + wait)
        await self._store.settle(
            account.ref,
            trouble=trouble,
            keep_intent=True,
            dead=account.dead,
            next_at=None if account.dead or account.frozen or account.removed_at else began + wait,
            at=account.dead_since or now,
            events=[],
            free_after=max(0.0, began + wait - now),
        )
        return account.with_trouble(trouble)
