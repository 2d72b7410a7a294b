"""Slows down whoever tries credentials; who has a valid one never notices."""

from collections import deque

from broker.clock import Clock

FAILURES = 20
WITHIN = 60.0
PEERS = 10_000


class Throttle:
    """Failures of the last minute, by peer; of too many peers those that failed longest ago are forgotten."""

    def __init__(self, clock: Clock, *, peers: int = PEERS) -> None:
        self._clock, self._peers = clock, peers
        self._failures: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        """How many peers are remembered."""
        return len(self._failures)

    def failed(self, peer: str) -> float | None:
        """Note a failure; seconds until the next may be answered in full, None while it still may."""
        now = self._clock.monotonic()
        recent = self._failures.pop(peer, None)
        if recent is None:
            recent = deque(maxlen=FAILURES)
            if len(self._failures) >= self._peers:
                del self._failures[next(iter(self._failures))]
        self._failures[peer] = recent
        if len(recent) == FAILURES and now - recent[0] < WITHIN:
            return recent[0] + WITHIN - now
        recent.append(now)
        return None
