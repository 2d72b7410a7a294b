"""Keeps the broker's clock right (R12): it follows the machine's, or that of the database that brokers share."""

from contextlib import suppress

import structlog

from broker.context import Context
from broker.errors import StorageUnavailable
from broker.times import span
from broker.tokens.permit import Permit
from broker.tokens.policy import CLOCKS_DIFFER, LONGEST_PAUSE

log = structlog.get_logger()
FOLLOWED = 2.0
"""Seconds; a smaller difference is left alone."""
WORTH_TELLING = 30.0
TOLD_FOR = 3600.0
LONGEST_QUIET = 30 * 86400.0
"""A store that nothing was written to for so long was off, or the clock is ahead: nothing is deleted for its age."""


class Timekeeper:
    """Sets the steady clock, and moves what was noted by the wrong time along with it."""

    def __init__(self, context: Context, *, permit: Permit) -> None:
        self._context, self._permit = context, permit
        self._clock, self._store, self._health = context.steady, context.stores.accounts, context.health
        self._told_at = float("-inf")

    async def begin(self) -> None:
        """At the start: believe no stored time that the clock contradicts."""
        now, newest = self._clock.now(), await self._store.newest_at()
        if newest is not None and now - newest > LONGEST_QUIET:
            log.warning("clock.doubtful", newest_row_days=round((now - newest) / 86400))
            self._clock.distrust(newest)
        # A store that takes no writes just now serves what it has.
        with suppress(StorageUnavailable):
            await self._make_due()

    async def look(self) -> None:
        """Follow the reference if it has jumped."""
        now = await self._context.reference()
        if self._context.is_shared:
            ahead = self._context.clock.now() - now
            if abs(ahead) > WORTH_TELLING:
                self._health.raise_problem("clock_skew", skew_told(ahead))
            else:
                self._health.clear("clock_skew")
        by = now - self._clock.now()
        if abs(by) > FOLLOWED:
            await self._follow(by)
        elif self._clock.monotonic() - self._told_at > TOLD_FOR:
            self._health.clear("clock_jumped")

    async def _follow(self, by: float) -> None:
        since, until = self._clock.started_at, self._clock.now()
        log.warning("clock.set", by=round(by, 1))
        if by > 0:
            # In this order, tokens of this run never seem to have ended.
            await self._shift(by, since, until)
            self._set(by)
        else:
            self._set(by)
            await self._shift(by, since, until)
        await self._make_due()
        if abs(by) > WORTH_TELLING:
            self._told_at = self._clock.monotonic()
            whose, where = (
                "database" if self._context.is_shared else "machine",
                "forward" if by > 0 else "back",
            )
            self._health.raise_problem(
                "clock_jumped",
                f"the {whose}'s clock was set {where} by {span(abs(by))}; the broker follows it and renews what"
                " seems due. Check that the time is right (NTP)",
            )

    async def _shift(self, by: float, since: float, until: float) -> None:
        # Rows of a shared database are dated by its clock, and not by this broker alone.
        if not self._context.is_shared:
            await self._store.shift_times(by, since=since, until=until)
            self._context.stores.changes.missed()

    def _set(self, by: float) -> None:
        self._clock.set(self._clock.now() + by)
        self._permit.shift(by)

    async def _make_due(self) -> None:
        now = self._clock.now()
        await self._store.make_due(now, issued_after=now + CLOCKS_DIFFER, paused_until=now + LONGEST_PAUSE)


def skew_told(ahead: float) -> str:
    """Describe a machine whose clock is `ahead` of the database's."""
    word = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is {span(abs(ahead))} {word} the database's, by which tokens are judged;"
        " set its time (NTP)"
    )
