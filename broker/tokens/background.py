"""Renews what is due before a caller has to wait, and keeps unused grants from dying of idleness."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog

from broker.clock import Clock, SteadyClock
from broker.config.settings import RefreshSettings
from broker.errors import StorageUnavailable
from broker.model import Account
from broker.observe.health import Health
from broker.store.interface import RefreshStore
from broker.tokens.flight import Flights
from broker.tokens.permit import Permit
from broker.tokens.policy import is_wanted, next_look

log = structlog.get_logger()

BATCH = 64
RATE = 10.0
"""Renewals a second for each provider: a jump of the clock must not start a storm (R12)."""
SHORTEST, LONGEST = 0.2, 5.0
HOLD_AGAIN = 5.0
CLOCK_JUMP = 30.0
HOUSEKEEPING_EVERY = 15.0
CLAIM = 30.0
"""Seconds in which a broker gets through a batch; whatever it did not get to is due again then."""


class Background:
    """The loop that starts the same flights a caller would join."""

    def __init__(
        self,
        *,
        store: RefreshStore,
        flights: Flights,
        permit: Permit,
        clock: SteadyClock,
        settings: RefreshSettings,
        health: Health,
        probe: Callable[[], Awaitable[object]],
        chores: Sequence[Callable[[], Awaitable[object]]],
    ) -> None:
        self._store, self._flights, self._permit = store, flights, permit
        self._clock, self._settings, self._health = clock, settings, health
        self._probe = probe
        """Finds out in every round whether what ails the store is over."""
        self._chores = chores
        """Small regular work of other rooms: flushing, purging."""
        self._pace = Pace(clock)
        self._next_chores_at = 0.0

    async def run(self) -> None:
        """Go round until cancelled; a round that fails is logged, and the next one comes."""
        while True:
            try:
                wait = await self._round()
            except StorageUnavailable:
                wait = LONGEST
            except Exception as exc:
                log.error("background.round_failed", exc_info=exc)
                wait = LONGEST
            await self._clock.sleep(wait)

    async def _round(self) -> float:
        self._watch_clock()
        await self._probe()
        await self._do_chores()
        if not self._settings.background or self._permit.stopping:
            return LONGEST
        now = self._clock.now()
        first = await self._store.next_due_at()
        if first is not None and first <= now:
            # Other brokers on the same store leave these alone meanwhile.
            for account in await self._store.due(now, BATCH, claim_until=now + CLAIM):
                await self._look_at(account)
        next_due = await self._store.next_due_at()
        until_due = LONGEST if next_due is None else next_due - self._clock.now()
        return min(max(until_due, SHORTEST), LONGEST)

    async def _look_at(self, account: Account) -> None:
        if self._flights.is_flying(account.ref):
            return
        now = self._clock.now()
        ahead, idle = self._settings.ahead, self._settings.idle_renewal
        in_trouble = account.trouble.ambiguous > 0 or account.trouble.refusals > 0
        if not in_trouble and not is_wanted(account, now=now, ahead=ahead, idle_renewal=idle):
            look = next_look(account, now=now, ahead=ahead, idle_renewal=idle)
            await self._store.schedule(account.ref, look if look is None or look > now else now + HOLD_AGAIN)
            return
        if hold := self._permit.hold(account, now):
            until = (
                None
                if hold.until is None and (account.dead or account.frozen)
                else hold.until or now + HOLD_AGAIN
            )
            await self._store.schedule(account.ref, until if until is None else max(until, now + SHORTEST))
            return
        await self._pace.wait(account.provider)
        self._flights.begin(account.ref)

    def _watch_clock(self) -> None:
        if abs(self._clock.jump) > CLOCK_JUMP:
            self._health.raise_problem(
                "clock_jumped",
                "the wall clock jumped since the start; tokens go on by the steady clock. Set the time, then restart",
            )
        else:
            self._health.clear("clock_jumped")

    async def _do_chores(self) -> None:
        now = self._clock.monotonic()
        if now < self._next_chores_at:
            return
        self._next_chores_at = now + HOUSEKEEPING_EVERY
        for chore in self._chores:
            await chore()


class Pace:
    """Spaces starts evenly for each provider, with jitter."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_at: dict[str, float] = {}

    async def wait(self, provider: str) -> None:
        """Return when the next start of this provider is due."""
        now = self._clock.monotonic()
        at = max(now, self._next_at.get(provider, 0.0))
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing
        self._next_at[provider] = at + jitter / RATE
        if at > now:
            await self._clock.sleep(at - now)


async def until_cancelled(task: "asyncio.Task[None]") -> None:
    """End a loop's task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
