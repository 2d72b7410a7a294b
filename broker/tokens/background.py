"""Background work: renews tokens before a caller has to wait, and keeps the broker's clock right (R12)."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from broker.clock import Clock
from broker.config.settings import RefreshSettings
from broker.context import Context
from broker.errors import StorageUnavailable
from broker.model import Account, Ref
from broker.store.renewals import RefreshStore
from broker.times import span
from broker.tokens.flight import Flights
from broker.tokens.permit import Permit
from broker.tokens.policy import CLOCKS_DIFFER, LONGEST_PAUSE, is_wanted, next_look

log = structlog.get_logger()

BATCH = 64
RATE = 10.0
"""Renewals a second for each provider: a jump of the clock must not start a storm (R12)."""
SHORTEST, LONGEST = 0.2, 5.0
"""Seconds between two rounds."""
MOMENT = 0.001
"""Waits shorter than this many seconds are rounding errors of float sums."""
RETRY_AFTER = 5.0
MAINTENANCE_EVERY = 15.0
CLAIM = 60.0
"""Seconds for which the accounts that this broker claimed are left alone by the others. Those that it did not get to
are due again after that."""
QUEUE = int(RATE * CLAIM)
"""Accounts of one provider that may wait for their turn: as many as can be renewed within one claim."""
FOLLOWED = 2.0
"""Seconds by which the clocks may differ before the broker's clock is set."""
WORTH_TELLING = 30.0
TOLD_FOR = 3600.0
LONGEST_QUIET = 30 * 86400.0
"""Seconds without any write after which the clock is doubted: nothing is deleted for its age, in case it is ahead."""


class Background:
    """The loop that starts due renewals and runs the maintenance tasks of all services."""

    def __init__(
        self,
        *,
        store: RefreshStore,
        flights: Flights,
        permit: Permit,
        clock: Clock,
        settings: RefreshSettings,
        checks: Sequence[Callable[[], Awaitable[object]]] = (),
        tasks: Sequence[Callable[[], Awaitable[object]]] = (),
        purges: Sequence[Callable[[], Awaitable[int]]] = (),
    ) -> None:
        self._store, self._flights, self._permit = store, flights, permit
        self._clock, self._settings = clock, settings
        self._checks = checks
        """Called at the start of each round: was the clock set, does the store work again?"""
        self._tasks = tasks
        """Maintenance tasks of other services, such as storing last-used timestamps."""
        self._purges = purges
        """Each deletes a few expired rows and returns their number."""
        self._purging: asyncio.Task[None] | None = None
        self._queues = ProviderQueues(clock)
        self._next_maintenance_at = 0.0

    async def run(self) -> None:
        """Run rounds until cancelled. A round that fails is logged, and the next one follows."""
        try:
            while True:
                wait = LONGEST
                try:
                    wait = await self._round()
                except StorageUnavailable:
                    pass
                except Exception as exc:
                    log.error("background.round_failed", exc_info=exc)
                ends_at = self._clock.monotonic() + wait
                while (left := ends_at - self._clock.monotonic()) > MOMENT:
                    for ref in self._queues.take():
                        self._flights.begin(ref)
                    await self._clock.sleep(min(left, self._queues.next_turn))
        finally:
            if self._purging is not None:
                await until_cancelled(self._purging)

    async def _round(self) -> float:
        """Check, maintain, and queue the accounts that are due. Return the seconds until the next round."""
        for check in self._checks:
            await check()
        if self._clock.monotonic() >= self._next_maintenance_at:
            self._next_maintenance_at = self._clock.monotonic() + MAINTENANCE_EVERY
            if self._purging is None or self._purging.done():
                self._purging = asyncio.create_task(self._purge(), name="purge")
            for task in self._tasks:
                await _logged(task())
        if not self._settings.background or self._permit.stopping:
            return LONGEST
        now = self._clock.now()
        first = await self._store.next_due_at()
        if first is not None and first <= now:
            for account in await self._store.due(now, BATCH, claim_until=now + CLAIM):
                await _logged(self._look_at(account), account=account.name)
        next_due = await self._store.next_due_at()
        until_due = LONGEST if next_due is None else next_due - self._clock.now()
        return min(max(until_due, SHORTEST), LONGEST)

    async def _look_at(self, account: Account) -> None:
        """Queue a due account for its renewal, or note when to look at it again."""
        if self._flights.is_running(account.ref):
            return
        now = self._clock.now()
        ahead, idle = self._settings.ahead, self._settings.idle_renewal
        in_trouble = account.trouble.ambiguous > 0 or account.trouble.refusals > 0
        if not in_trouble and not is_wanted(account, now=now, ahead=ahead, idle_renewal=idle):
            look = next_look(account, now=now, ahead=ahead, idle_renewal=idle)
            await self._store.schedule(account.ref, look if look is None or look > now else now + RETRY_AFTER)
        elif hold := self._permit.hold(account, now):
            is_over = hold.until is None and (account.dead or account.frozen)
            until = max(hold.until or now + RETRY_AFTER, now + SHORTEST)
            await self._store.schedule(account.ref, None if is_over else until)
        else:
            self._queues.put(account)

    async def _purge(self) -> None:
        """Delete what has expired in small transactions, so that renewals are stored in between."""
        for purge in self._purges:
            try:
                while await purge():
                    pass
            except StorageUnavailable:
                return
            except Exception as exc:
                log.error("background.purge_failed", exc_info=exc)


async def _logged(work: Awaitable[object], **fields: str) -> None:
    """Await the work and log its failure, so that it ends no round; only StorageUnavailable is raised."""
    try:
        await work
    except StorageUnavailable:
        raise
    except Exception as exc:
        log.error("background.work_failed", exc_info=exc, **fields)


class ProviderQueues:
    """A queue of accounts for each provider. The renewals of one provider are spaced evenly, with jitter, and do not
    delay those of another."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, dict[str, Ref]] = {}
        self._next_at: dict[str, float] = {}

    def put(self, account: Account) -> None:
        """Queue the account. If its queue is full, drop it: it is due again when its claim has ended."""
        waiting = self._waiting.setdefault(account.provider, {})
        if account.name in waiting or len(waiting) < QUEUE:
            waiting[account.name] = account.ref

    def take(self) -> list[Ref]:
        """Remove and return the accounts that are to be renewed now, at most one of each provider."""
        now, turns = self._clock.monotonic(), list[Ref]()
        for provider, waiting in [*self._waiting.items()]:
            if self._turn_of(provider) > now + MOMENT:
                continue
            turns.append(waiting.pop(next(iter(waiting))))
            if not waiting:
                del self._waiting[provider]
            jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing
            self._next_at[provider] = now + jitter / RATE
        return turns

    @property
    def next_turn(self) -> float:
        """Seconds until `take` returns an account; infinite if all queues are empty."""
        soonest = min(map(self._turn_of, self._waiting), default=math.inf)
        return max(0.0, soonest - self._clock.monotonic())

    def _turn_of(self, provider: str) -> float:
        return self._next_at.get(provider, 0.0)


class Timekeeper:
    """Sets the steady clock to follow the machine's, or that of the database that brokers share (R12).

    It also corrects the times that were recorded by the wrong clock.
    """

    def __init__(self, context: Context, *, permit: Permit) -> None:
        self._context, self._permit = context, permit
        self._clock, self._store, self._health = context.steady, context.stores.accounts, context.health
        self._told_at = float("-inf")

    async def begin(self) -> None:
        """At the start, correct stored times that contradict the clock."""
        now, newest = self._clock.now(), await self._store.newest_at()
        if newest is not None and now - newest > LONGEST_QUIET:
            log.warning("clock.doubtful", newest_row_days=round((now - newest) / 86400))
            self._clock.distrust(newest)
        # A store that accepts no writes now serves what it has.
        with suppress(StorageUnavailable):
            await self._make_due()

    async def check(self) -> None:
        """Set the steady clock if its reference has jumped, and report the difference as a health problem."""
        now = await self._context.reference()
        if self._context.is_shared:
            ahead = self._context.clock.now() - now
            if abs(ahead) > WORTH_TELLING:
                self._health.raise_problem("clock_skew", skew_text(ahead))
            else:
                self._health.clear("clock_skew")
        by = now - self._clock.now()
        if abs(by) > FOLLOWED:
            await self._follow(by)
        elif self._clock.monotonic() - self._told_at > TOLD_FOR:
            self._health.clear("clock_jumped")

    async def _follow(self, by: float) -> None:
        """Set the clock by so many seconds, and move the times of this run along with it."""
        since, until, is_shared = self._clock.started_at, self._clock.now(), self._context.is_shared
        log.warning("clock.set", by=round(by, 1))
        if by < 0:
            self._set(by)
        # Rows of a shared database are dated by its clock, and not by this broker alone.
        if not is_shared:
            await self._store.shift_times(by, since=since, until=until)
            self._context.stores.changes.missed()
        if by > 0:
            # Only now, so that tokens of this run never seem to have expired.
            self._set(by)
        await self._make_due()
        if abs(by) > WORTH_TELLING:
            self._told_at = self._clock.monotonic()
            whose, where = "database" if is_shared else "machine", "forward" if by > 0 else "back"
            self._health.raise_problem(
                "clock_jumped",
                f"the {whose}'s clock was set {where} by {span(abs(by))}; the broker follows it and renews what"
                " seems due. Check that the time is right (NTP)",
            )

    def _set(self, by: float) -> None:
        self._clock.set(self._clock.now() + by)
        self._permit.shift(by)

    async def _make_due(self) -> None:
        now = self._clock.now()
        await self._store.make_due(now, issued_after=now + CLOCKS_DIFFER, paused_until=now + LONGEST_PAUSE)


def skew_text(ahead: float) -> str:
    """Describe a machine whose clock is `ahead` seconds ahead of the database's clock."""
    word = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is {span(abs(ahead))} {word} the database's, by which tokens are judged;"
        " set its time (NTP)"
    )


async def until_cancelled(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
