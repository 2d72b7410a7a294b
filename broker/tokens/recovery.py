"""R10: what an earlier boot left open is taken up before anything else, newest first."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from broker.clock import Clock
from broker.model import Account
from broker.store.interface import RefreshStore
from broker.tokens.flight import Flights
from broker.tokens.permit import Permit
from broker.tokens.retained import RetainedCommits
from broker.tokens.schedule import Timings, quarantine

log = structlog.get_logger()
AT_ONCE = 16


class Recovery:
    """Boot, before and after READY."""

    def __init__(
        self,
        *,
        store: RefreshStore,
        retained: RetainedCommits,
        permit: Permit,
        flights: Flights,
        clock: Clock,
        timings: Timings,
        boot_id: str,
    ) -> None:
        self._store, self._retained, self._permit, self._flights = store, retained, permit, flights
        self._clock, self._timings, self._boot_id = clock, timings, boot_id

    async def prepare(self) -> list[Account]:
        """Before READY: the spool is being committed and the leases of earlier boots are ours. Living tokens are
        served from now on. The accounts whose renewal was left open, newest first."""
        self._retained.recover()
        opened = await self._store.take_over(self._boot_id, self._clock.now())
        for account in opened:
            log.warning("renewal.left_open", account=account.name, generation=account.generation)
        return opened

    async def renew(self, accounts: Sequence[Account]) -> None:
        """After READY: renew what was left open, each after its quarantine, which counts from its intent."""
        places = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._renew(account, places) for account in accounts))

    async def _renew(self, account: Account, places: asyncio.Semaphore) -> None:
        async with places:
            if account.intent is not None:
                wait = quarantine(timed_out=False, grace=self._permit.grace(account), timings=self._timings)
                await self._clock.sleep(max(0.0, account.intent.at + wait - self._clock.now()))
            with suppress(Exception):  # the flight has logged it; the background tries again
                await self._flights.join(account.ref)
