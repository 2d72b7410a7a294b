"""Whether the store can take a rotated token just now; never rotate what cannot be stored (R1)."""

import os
from collections.abc import Callable
from pathlib import Path

from broker.clock import Clock
from broker.errors import StorageUnavailable
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.store.keys import KeyStore

LEAST_FREE = 32 * 1024 * 1024
LOOK_EVERY = 1.0


class StoreHealth:
    """Remembers how the last write ended, and looks at the free space once a second at most."""

    def __init__(self, *, folder: Path | None, clock: Clock, health: Health, metrics: Metrics) -> None:
        self._folder = folder
        """Of which the free space counts; None where the store lies on another machine."""
        self._clock, self._health, self._metrics = clock, health, metrics
        self._last_write_ok = self._enough_space = self._is_up = True
        self._looked_at = self._up_since = self._failed_at = float("-inf")
        self.is_named: Callable[[], bool] = lambda: True
        """Whether this broker has its name to itself."""

    def observe(self, ok: bool, seconds: float) -> None:
        """A commit succeeded, or did not, after so many seconds."""
        self._metrics.store_commit_seconds.observe(seconds)
        self._last_write_ok = ok
        if not ok:
            self._failed_at = self._clock.monotonic()
        if ok or self._is_up:
            self._note("store_failing", ok, "the store cannot be written; renewals wait")

    def turned(self, up: bool) -> None:
        """The database can be reached again, or not any more."""
        self._is_up = up
        if up:
            self._up_since = self._clock.monotonic()
            # What failed meanwhile was the way to the database; it is tried anew.
            self._last_write_ok = True
        self._note(
            "store_failing", up, "the database cannot be reached; renewals wait, living tokens are served"
        )

    def up_for(self) -> float:
        """For how many seconds the store can be reached without a break; 0 while it cannot."""
        return self._clock.monotonic() - self._up_since if self._is_up else 0.0

    def is_ready(self) -> bool:
        # A server far away fails single writes for passing reasons; the intent's own write is the next trial.
        passing = self._folder is None and self._clock.monotonic() - self._failed_at >= LOOK_EVERY
        return self._is_up and (self._last_write_ok or passing) and self._has_name() and self._has_space()

    async def probe(self, store: KeyStore) -> None:
        """Where nobody else does: look at the free space, and try a small write if the last one failed."""
        self._has_space()
        if not self._last_write_ok:
            try:
                await store.set_meta("probe", str(self._clock.now()))
            except StorageUnavailable:
                return

    def _has_name(self) -> bool:
        detail = "another broker has this one's name; renewals wait. Give each its own store.replica"
        return self._note("name_taken", self.is_named(), detail)

    def _has_space(self) -> bool:
        now = self._clock.monotonic()
        if self._folder is not None and now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            room = os.statvfs(self._folder)
            detail = "less than 32 MiB are free beside the store; renewals wait"
            self._enough_space = self._note("disk_full", room.f_bavail * room.f_frsize >= LEAST_FREE, detail)
        return self._enough_space

    def _note(self, problem: str, is_well: bool, detail: str) -> bool:
        if is_well:
            self._health.clear(problem)
        else:
            self._health.raise_problem(problem, detail)
        return is_well
