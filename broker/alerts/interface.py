"""What a way of telling somebody must offer."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Alert:
    """One event, as it is sent."""

    id: str
    """The same at every attempt, so that a receiver knows a repetition."""
    body: bytes
    """The event as JSON."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The receiver has it not, or did not say so."""

    why: str
    """For the log; nothing of a receiver's answer."""
    retry_after: float | None = None
    """Seconds, where the receiver asked for a pause."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The receiver wants nothing any more."""


Outcome = Delivered | Failed | Gone


class Hook(Protocol):
    """One receiver."""

    @property
    def target(self) -> str:
        """A hash of where it leads."""
        ...

    async def deliver(self, alert: Alert) -> Outcome:
        """Try once, within a time limit of its own; raises nothing."""
        ...

    def hurry(self) -> None:
        """The broker stops: end what would take long."""
        ...
