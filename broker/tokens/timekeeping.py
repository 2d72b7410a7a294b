"""Keeps the broker's clock right (R12): it follows the machine's clock, or that of the database that brokers share."""

from contextlib import suppress

import structlog

from broker.context import Context
from broker.errors import StorageUnavailable
from broker.times import span
from broker.tokens.permit import Permit
from broker.tokens.policy import CLOCKS_DIFFER, LONGEST_PAUSE

log = structlog.get_logger()
FOLLOWED = 2.0
"""Seconds by which the clocks may differ before the broker's clock is set."""
WORTH_TELLING = 30.0
TOLD_FOR = 3600.0
LONGEST_QUIET = 30 * 86400.0
"""Seconds without any write after which the clock is doubted: nothing is deleted for its age, in case it is ahead."""


class Timekeeper:
    """Sets the steady clock, and corrects the times that were recorded by the wrong clock."""

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
