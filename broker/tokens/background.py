"""Renews what is due before a caller has to wait, and keeps unused grants from dying of idleness."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog

from broker.clock import Clock
from broker.config.settings import RefreshSettings
from broker.errors import StorageUnavailable
from broker.model import Account, Ref
from broker.store.renewals import RefreshStore
from broker.tokens.flight import Flights
from broker.tokens.permit import Permit
from broker.tokens.policy import is_wanted, next_look

log = structlog.get_logger()

BATCH = 64
RATE = 10.0
"""Renewals a second for each provider: a jump of the clock must not start a storm (R12)."""
SHORTEST, LONGEST = 0.2, 5.0
MOMENT = 0.001
"""Seconds; less than this is no waiting, but what sums of floats leave over."""
HOLD_AGAIN = 5.0
HOUSEKEEPING_EVERY = 15.0
CLAIM = 60.0
"""Seconds for which a broker has what it took; whatever it did not get to is due again then."""
LANE = int(RATE * CLAIM)
"""Accounts of one provider that wait here for their turn: as many as come to it in that time."""


class Background:
    """The loop that starts the same flights a caller would join."""

    def __init__(
        self,
        *,
        store: RefreshStore,
        flights: Flights,
        permit: Permit,
        clock: Clock,
        settings: RefreshSettings,
        keep_time: Callable[[], Awaitable[object]],
        probe: Callable[[], Awaitable[object]],
        chores: Sequence[Callable[[], Awaitable[object]]],
        purges: Sequence[Callable[[], Awaitable[int]]] = (),
    ) -> None:
        self._store, self._flights, self._permit = store, flights, permit
        self._clock, self._settings = clock, settings
        self._keep_time = keep_time
        """Finds out in every round whether the clock was set."""
        self._probe = probe
        """Finds out in every round whether what ails the store is over."""
        self._chores = chores
        """Small regular work of other services: flushing, looking again."""
        self._purges = purges
        """Each forgets a few rows and says how many."""
        self._purging: asyncio.Task[None] | None = None
        self._lanes = Lanes(clock)
        self._next_chores_at = 0.0

    async def run(self) -> None:
        """Go round until cancelled; a round that fails is logged, and the next one comes."""
        try:
            while True:
                wait = LONGEST
                try:
                    wait = await self._round()
                except StorageUnavailable:
                    pass
                except Exception as exc:
                    log.error("background.round_failed", exc_info=exc)
                await self._begin_in_turn(wait)
        finally:
            if self._purging is not None:
                await until_cancelled(self._purging)

    async def _round(self) -> float:
        await self._keep_time()
        await self._probe()
        await self._do_chores()
        if not self._settings.background or self._permit.stopping:
            return LONGEST
        now = self._clock.now()
        first = await self._store.next_due_at()
        if first is not None and first <= now:
            # Other brokers on the same store leave these alone meanwhile.
            for account in await self._store.due(now, BATCH, claim_until=now + CLAIM):
                await _alone(self._look_at(account), account=account.name)
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
            is_over = hold.until is None and (account.dead or account.frozen)
            until = max(hold.until or now + HOLD_AGAIN, now + SHORTEST)
            await self._store.schedule(account.ref, None if is_over else until)
            return
        self._lanes.put(account)

    async def _begin_in_turn(self, seconds: float) -> None:
        """Let so much time pass, and begin every renewal whose turn comes meanwhile."""
        ends_at = self._clock.monotonic() + seconds
        while (left := ends_at - self._clock.monotonic()) > MOMENT:
            for ref in self._lanes.take():
                self._flights.begin(ref)
            await self._clock.sleep(min(left, self._lanes.next_turn))

    async def _do_chores(self) -> None:
        now = self._clock.monotonic()
        if now < self._next_chores_at:
            return
        self._next_chores_at = now + HOUSEKEEPING_EVERY
        if self._purging is None or self._purging.done():
            self._purging = asyncio.create_task(self._purge(), name="purge")
        for chore in self._chores:
            await _alone(chore())

    async def _purge(self) -> None:
        """Forget until nothing is due, in small transactions: renewals come between them."""
        for purge in self._purges:
            try:
                while await purge():
                    pass
            except StorageUnavailable:
                return
            except Exception as exc:
                log.error("background.purge_failed", exc_info=exc)


async def _alone(work: Awaitable[object], **whose: str) -> None:
    """Do it so that its failure ends no round, unless it is the store that failed."""
    try:
        await work
    except StorageUnavailable:
        raise
    except Exception as exc:
        log.error("background.work_failed", exc_info=exc, **whose)


class Lanes:
    """Accounts that wait for a turn, by provider: each provider's turns are spaced evenly, with jitter, and its
    crowd holds up no other's."""

    def __init__(self, clock: Clock, *, places: int = LANE) -> None:
        self._clock, self._places = clock, places
        self._waiting: dict[str, dict[str, Ref]] = {}
        self._next_at: dict[str, float] = {}

    def put(self, account: Account) -> None:
        """Let it wait, unless too many do: then it is left to be found again when its claim has ended."""
        waiting = self._waiting.setdefault(account.provider, {})
        if account.name in waiting or len(waiting) < self._places:
            waiting[account.name] = account.ref

    def take(self) -> list[Ref]:
        """Those whose turn it is."""
        now, turns = self._clock.monotonic(), list[Ref]()
        for provider, waiting in [*self._waiting.items()]:
            if self._at(provider) > now + MOMENT:
                continue
            turns.append(waiting.pop(next(iter(waiting))))
            if not waiting:
                del self._waiting[provider]
            jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing
            self._next_at[provider] = now + jitter / RATE
        return turns

    @property
    def next_turn(self) -> float:
        """Seconds until somebody's turn; infinite where nobody waits."""
        soonest = min(map(self._at, self._waiting), default=math.inf)
        return max(0.0, soonest - self._clock.monotonic())

    def _at(self, provider: str) -> float:
        return self._next_at.get(provider, 0.0)


async def until_cancelled(task: "asyncio.Task[None]") -> None:
    """End a loop's task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
