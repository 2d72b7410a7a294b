"""Turns standing problems of the broker itself into events; they wait until the store takes them."""

from broker.clock import Clock
from broker.errors import StorageUnavailable
from broker.model import Event, EventKind
from broker.observe.health import Health
from broker.store.interface import EventStore

TOLD = frozenset({"commit_retained", "audit_waiting", "copied_store"})


class DegradedEvents:
    """`broker_degraded` and `broker_recovered`, on transitions only."""

    def __init__(self, *, health: Health, events: EventStore, clock: Clock) -> None:
        self._events, self._clock = events, clock
        self._waiting: list[Event] = []
        health.listen(self._heard)

    async def flush(self) -> None:
        """Store what has happened since."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            await self._events.add_events(waiting)
        except StorageUnavailable:
            self._waiting = [*waiting, *self._waiting]

    def _heard(self, key: str, standing: bool) -> None:
        if key in TOLD:
            kind = EventKind.BROKER_DEGRADED if standing else EventKind.BROKER_RECOVERED
            self._waiting.append(Event(at=self._clock.now(), kind=kind, reason=key))
