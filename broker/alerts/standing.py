"""Turns standing problems of the broker itself into events, on transitions only, over restarts too."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from broker.clock import Clock
from broker.errors import StorageUnavailable
from broker.model import Event, EventKind, Incident, Reason
from broker.observe.health import Health
from broker.store.events import AlertStore

TOLD: frozenset[str] = frozenset({Incident.COMMIT_RETAINED, Incident.AUDIT_WAITING, Reason.COPIED_STORE})


@dataclass(frozen=True, slots=True)
class _Turn:
    """A trouble began, or is over."""

    at: float
    reason: str
    provider: str
    stands: bool


class StandingTroubles:
    """`broker_degraded` and `broker_recovered`; they wait in memory until the store takes them."""

    def __init__(
        self,
        *,
        replica: str,
        health: Health,
        mass_refused: Callable[[float], Iterable[str]],
        store: AlertStore,
        clock: Clock,
    ) -> None:
        self._replica, self._mass_refused = replica, mass_refused
        """Providers whose refusals are not believed just now, by the time."""
        self._store, self._clock = store, clock
        self._standing: set[tuple[str, str]] = set()
        self._waiting: list[_Turn] = []
        self._has_looked_back = False
        health.listen(self._heard)

    async def flush(self) -> None:
        """Store what has happened since, in its order."""
        self._look_at_providers()
        try:
            if not self._has_looked_back:
                await self._look_back()
            while self._waiting:
                await self._note(self._waiting[0])
                self._waiting.pop(0)
        except StorageUnavailable:
            return

    def _heard(self, key: str, standing: bool) -> None:
        if key in TOLD:
            self._turn(key, "", standing)

    def _look_at_providers(self) -> None:
        now = set(self._mass_refused(self._clock.now()))
        before = {provider for reason, provider in self._standing if reason == Reason.MASS_REFUSAL}
        for provider in sorted(now ^ before):
            self._turn(Reason.MASS_REFUSAL, provider, provider in now)

    async def _look_back(self) -> None:
        """What an earlier start told of and this one does not find is over."""
        for reason, provider in sorted(await self._store.standing(self._replica) - self._standing):
            self._waiting.insert(0, _Turn(self._clock.now(), reason, provider, False))
        self._has_looked_back = True

    def _turn(self, reason: str, provider: str, stands: bool) -> None:
        (self._standing.add if stands else self._standing.discard)((reason, provider))
        self._waiting.append(_Turn(self._clock.now(), reason, provider, stands))

    async def _note(self, turn: _Turn) -> None:
        kind = EventKind.BROKER_DEGRADED if turn.stands else EventKind.BROKER_RECOVERED
        event = Event(at=turn.at, kind=kind, provider=turn.provider or None, reason=turn.reason)
        await self._store.note_standing(self._replica, event, stands=turn.stands)
