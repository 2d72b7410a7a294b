"""Tells whether the store could take a new token set; a token that cannot be stored must not be rotated (R1)."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from broker.clock import Clock
from broker.errors import StorageUnavailable
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.store.keys import KeyStore

LEAST_FREE = 32 * 1024 * 1024
LOOK_EVERY = 1.0


class StoreHealth:
    """Tracks the result of the last write, the connection to the database and the free disk space."""

    def __init__(self, *, folder: Path | None, clock: Clock, health: Health, metrics: Metrics) -> None:
        self._folder = folder
        """The folder whose free space is checked; None if the store is on another machine."""
        self._clock, self._health, self._metrics = clock, health, metrics
        self._last_write_ok = self._enough_space = self._is_up = True
        self._looked_at = self._up_since = self._failed_at = float("-inf")
        self.is_named: Callable[[], bool] = lambda: True
        """True if no other broker uses this one's name."""

    def observe(self, ok: bool, seconds: float) -> None:
        """Note whether a commit succeeded, and how many seconds it took."""
        self._metrics.store_commit_seconds.observe(seconds)
        self._last_write_ok = ok
        if not ok:
            self._failed_at = self._clock.monotonic()
        if ok or self._is_up:
            self._note("store_failing", ok, "the store cannot be written; renewals wait")

    def turned(self, up: bool) -> None:
        """Note that the database can be reached again, or not any more."""
        self._is_up = up
        if up:
            self._up_since = self._clock.monotonic()
            # Writes failed because of the connection, so the store may be ready again.
            self._last_write_ok = True
        detail = "the database cannot be reached; renewals wait, valid tokens are served"
        self._note("store_failing", up, detail)

    def up_for(self) -> float:
        """Return for how many seconds the store has been reachable without a break; 0 while it is not."""
        return self._clock.monotonic() - self._up_since if self._is_up else 0.0

    def is_ready(self) -> bool:
        """Return whether a renewal may begin now; report a name conflict or a full disk to `Health`."""
        # Single writes to a remote server may fail for a moment; the next intent's write tries again.
        passing = self._folder is None and self._clock.monotonic() - self._failed_at >= LOOK_EVERY
        if not self._is_up or not (self._last_write_ok or passing):
            return False
        detail = "another broker has this one's name; renewals wait. Give each its own store.replica"
        return self._note("name_taken", self.is_named(), detail) and self._has_space()

    async def probe(self, store: KeyStore) -> None:
        """Check the free space, and try a small write if the last one failed."""
        self._has_space()
        if not self._last_write_ok:
            with suppress(StorageUnavailable):
                await store.set_meta("probe", str(self._clock.now()))

    def _has_space(self) -> bool:
        now = self._clock.monotonic()
        if self._folder is not None and now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            room = os.statvfs(self._folder)
            detail = "less than 32 MiB are free next to the store; renewals wait"
            self._enough_space = self._note("disk_full", room.f_bavail * room.f_frsize >= LEAST_FREE, detail)
        return self._enough_space

    def _note(self, problem: str, is_well: bool, detail: str) -> bool:
        if is_well:
            self._health.clear(problem)
        else:
            self._health.raise_problem(problem, detail)
        return is_well
