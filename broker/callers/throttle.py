"""Slows down whoever tries credentials; who has a valid one never notices."""

from collections import deque

from broker.clock import Clock
from broker.errors import RateLimited

FAILURES = 20
WITHIN = 60.0
PEERS = 10_000


class Throttle:
    """Failures of the last minute, by peer; of too many peers those that failed longest ago are forgotten."""

    def __init__(
        self, clock: Clock, *, peers: int = PEERS, most: int = FAILURES, within: float = WITHIN
    ) -> None:
        self._clock, self._peers = clock, peers
        self._most, self._within = most, within
        self._failures: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        """How many peers are remembered."""
        return len(self._failures)

    def failed(self, peer: str) -> float | None:
        """Note a failure; seconds until the next may be answered in full, None while it still may."""
        now = self._clock.monotonic()
        recent = self._failures.pop(peer, None)
        if recent is None:
            recent = deque(maxlen=self._most)
            if len(self._failures) >= self._peers:
                del self._failures[next(iter(self._failures))]
        self._failures[peer] = recent
        if len(recent) == self._most and now - recent[0] < self._within:
            return recent[0] + self._within - now
        recent.append(now)
        return None


class Strangers:
    """Limits, by address and in all, how often people whom nobody knows make the broker write or ask a provider."""

    def __init__(self, clock: Clock, *, most: int = 100, in_all: int = 5000, within: float = 600.0) -> None:
        self._by_site = Throttle(clock, most=most, within=within)
        self._all = Throttle(clock, most=in_all, within=within)

    def admit(self, site: str) -> None:
        """Count one more. Raises RateLimited."""
        wait = self._by_site.failed(site) or self._all.failed("")
        if wait is not None:
            raise RateLimited("Too many people connect from your network at once", retry_after=wait)
