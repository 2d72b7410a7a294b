"""When an alert is tried, and when it is given up. Pure."""

from collections.abc import Iterable

from broker.model import Event
from broker.store.events import Delivery

RETRIES = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
"""Seconds after the first failure, the second, …; then every hour."""
KEPT = 3 * 86400.0
"""An alert is given up so long after its event."""


def again_after(failures: int, asked: float | None) -> float:
    """Seconds until the next attempt after so many failures; a receiver's wish is heard up to an hour."""
    usual = RETRIES[min(failures, len(RETRIES)) - 1]
    return usual if asked is None else max(usual, min(asked, RETRIES[-1]))


def is_too_old(event: Event, now: float) -> bool:
    return now - event.at > KEPT


def heads(deliveries: Iterable[Delivery], now: float) -> list[Delivery]:
    """What may be tried now: the first of each account, so that an account's story is told in its order."""
    seen: set[str | None] = set()
    first = []
    for delivery in deliveries:
        if delivery.event.account not in seen:
            seen.add(delivery.event.account)
            first.append(delivery)
    # One that is further ahead than any pause was noted by a wrong clock.
    return [delivery for delivery in first if not 0 < delivery.next_at - now <= RETRIES[-1]]
