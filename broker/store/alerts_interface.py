"""What telling people needs of the store: how far each hook is, deliveries under way, standing troubles, ends to come.

Every method raises StorageUnavailable. Deliveries are derived from the table of events by a cursor: an event that
is durable is told, and one whose account was purged meanwhile is not.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from broker.model import Account, Event, EventKind

Span = tuple[float, float]
"""From when until when, epoch seconds."""


@dataclass(frozen=True, slots=True)
class HookState:
    """How far one hook is."""

    upto: int
    """Events up to this id have become deliveries."""
    paused_at: float | None
    """Since when it is told nothing, because it said that it wants nothing."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one hook."""

    event: Event
    attempts: int
    next_at: float
    """When it may be tried next, epoch seconds; while an attempt runs, when that counts as lost."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """An end of a grant, as it is told once."""

    account: str
    ends_at: float
    days: int
    """The threshold: so many days before."""


class AlertStore(Protocol):
    """What `broker/alerts` keeps."""

    async def open_hook(self, hook: str, target: str) -> HookState:
        """The hook as it stands; a new one begins with what happens from now on. `target` is a hash of where it
        leads: another one than before lifts a pause."""
        ...

    async def forget_hook(self, hook: str) -> None:
        """It is configured no more: its deliveries go with it."""
        ...

    async def pause_hook(self, hook: str, at: float | None) -> None:
        """Tell it nothing from now on; None: again."""
        ...

    async def spread(
        self, hook: str, *, upto: int, without: Collection[EventKind], limit: int, at: float
    ) -> int:
        """Make the next events behind `upto` deliveries, `limit` at most, and move the cursor in the same
        transaction; how far it is now. Another process that was faster wins, and nothing is doubled."""
        ...

    async def deliveries(self, hook: str) -> list[Delivery]:
        """All of a hook, in the order of the events."""
        ...

    async def claim(self, hook: str, delivery: Delivery, until: float) -> bool:
        """Take the next attempt, durably: True for exactly one of several processes."""
        ...

    async def postpone(self, hook: str, event_id: int, until: float) -> None: ...

    async def finish(self, hook: str, event_id: int) -> None:
        """It arrived, or was given up."""
        ...

    async def standing(self, replica: str) -> set[tuple[str, str]]:
        """Troubles (reason, provider) that this replica told of and has not called over."""
        ...

    async def note_standing(self, replica: str, event: Event, *, stands: bool) -> bool:
        """Note that a trouble began or is over, with its event; False, and no event, where that was noted before."""
        ...

    def mortal(self, ends: Span, idle: Mapping[str, Span], limit: int) -> AsyncIterator[list[Account]]:
        """Living accounts, so many at a time, whose end is known and lies in `ends`, or whose provider is in `idle`
        and who were last renewed in the span there; by index, never a scan. One may come twice."""
        ...

    async def foretell(self, ends: Foretold, event: Event) -> bool:
        """Tell of it, once; False where it was told before."""
        ...

    async def forget_foretold(self, before: float) -> None:
        """Forget what was foretold of ends before then."""
        ...
