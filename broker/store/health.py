"""Whether the store can take a rotated token just now; never rotate what cannot be stored (R1)."""

import os
from pathlib import Path

from broker.clock import Clock
from broker.errors import StorageUnavailable
from broker.observe.health import Health
from broker.observe.metrics import Metrics
from broker.store.interface import KeyStore

LEAST_FREE = 32 * 1024 * 1024
LOOK_EVERY = 1.0


class StoreHealth:
    """Remembers how the last write ended, and looks at the free space once a second at most."""

    def __init__(self, *, folder: Path, clock: Clock, health: Health, metrics: Metrics) -> None:
        self._folder, self._clock, self._health, self._metrics = folder, clock, health, metrics
        self._last_write_ok = True
        self._enough_space = True
        self._looked_at = float("-inf")

    def observe(self, ok: bool, seconds: float) -> None:
        """A commit succeeded, or did not, after so many seconds."""
        self._metrics.store_commit_seconds.observe(seconds)
        self._last_write_ok = ok
        if ok:
            self._health.clear("store_failing")
        else:
            self._health.raise_problem("store_failing", "the store cannot be written; renewals wait")

    def is_ready(self) -> bool:
        return self._last_write_ok and self._has_space()

    async def probe(self, store: KeyStore) -> None:
        """Where the last write failed, try a small one."""
        if self._last_write_ok:
            return
        try:
            await store.set_meta("probe", str(self._clock.now()))
        except StorageUnavailable:
            return

    def _has_space(self) -> bool:
        now = self._clock.monotonic()
        if now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            room = os.statvfs(self._folder)
            self._enough_space = room.f_bavail * room.f_frsize >= LEAST_FREE
            if self._enough_space:
                self._health.clear("disk_full")
            else:
                self._health.raise_problem(
                    "disk_full", "less than 32 MiB are free beside the store; renewals wait"
                )
        return self._enough_space
