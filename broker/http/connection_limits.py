"""Counts the connections of a listener and of each address, and says when there are enough."""

import asyncio
from collections import Counter
from ipaddress import ip_network

import structlog

from broker.errors import BrokerError, Overloaded, RateLimited
from broker.http.edge import Limits
from broker.http.peers import LOCAL

log = structlog.get_logger()
LOG_EVERY = 1.0
"""Seconds; a crowd at the door must not fill the log."""


class Door:
    """Who is inside, by address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inside = 0
        self.by_peer: Counter[str] = Counter()
        self._lingering = 0
        self._refused = 0
        self._logged_at = float("-inf")

    def enter(self, peer: str) -> BrokerError | None:
        """Let a connection in; what to tell it where there are too many already."""
        limits = self._limits
        if self._inside >= limits.connections:
            return self._refuse(
                Overloaded("there are too many connections; ask again in a moment", retry_after=1)
            )
        if self.by_peer[peer] >= self._most_of(peer):
            return self._refuse(
                RateLimited(f"one address may have {limits.per_peer} connections", retry_after=1)
            )
        self._inside += 1
        self.by_peer[peer] += 1
        return None

    def leave(self, peer: str) -> None:
        """A connection that was let in has ended."""
        self._inside -= 1
        self.by_peer[peer] -= 1
        if not self.by_peer[peer]:
            del self.by_peer[peer]

    def linger(self, most: int) -> bool:
        """Whether one that is turned away may stay to hear why; `let_go` when it has."""
        if self._lingering >= most:
            return False
        self._lingering += 1
        return True

    def let_go(self) -> None:
        self._lingering -= 1

    def _most_of(self, peer: str) -> float:
        limits = self._limits
        if limits.per_peer is None or peer == LOCAL:
            return float("inf")
        address = ip_network(peer).network_address
        if any(address in network for network in limits.uncapped):
            return float("inf")
        return limits.per_peer

    def _refuse(self, error: BrokerError) -> BrokerError:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= LOG_EVERY:
            log.warning("connection.refused", code=error.code, refused=self._refused)
            self._refused, self._logged_at = 0, now
        return error
