"""Whose turn is it? Renewals that other brokers have begun, and attempts whose outcome nobody noted."""

import secrets

import structlog

from broker.context import Context
from broker.model import Account, Intent
from broker.store.renewals import BOOT_WIDTH
from broker.tokens.permit import Permit
from broker.tokens.schedule import Timings, quarantine

log = structlog.get_logger()


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
        wait = (
            quarantine(timed_out=True, grace=self._permit.grace(account), timings=self._timings)
            if own
            else 0.0
        )
        not_before = max(now, intent.at + wait) if own else now
        if await self._store.orphaned(account.ref, intent.id, self.owner, at=now, not_before=not_before):
            log.warning("renewal.orphaned", account=account.name, generation=account.generation, own=own)
        return False
