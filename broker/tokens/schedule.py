"""The steps and the times that the renewal protocol names, and the pure arithmetic on the times."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

from broker.config.settings import Rotation


class Step(StrEnum):
    """The moments that the crash table of the protocol names; proofs stop the process at each."""

    GATE_PASSED = "R1 gate passed"
    CONNECTED = "R2 connected, intent not yet written"
    INTENT_DURABLE = "R3 intent durable, nothing sent"
    ANSWERED = "R5 answer in memory, not yet stored"
    COMMIT_DURABLE = "R6 commit durable, not yet published"
    SPOOLED = "R6 store refused, set lies in the spool"
    SETTLED = "R7 outcome noted"


Watch = Callable[[Step], None]


def unwatched(step: Step) -> None:
    """Nobody watches, outside of proofs."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. Settings of the code, not of the configuration, so that proofs can shrink them together."""

    quarantine_dropped: float = 3.0
    """After a dropped connection, before the same token is sent again (R7)."""
    quarantine_timeout: float = 10.0
    """After our own time-out: the provider may still be at it."""
    settle_first: float = 15.0
    settle_most: float = 300.0
    """15, 30, 60, then every 5 minutes (R7)."""
    backoff_first: float = 1.0
    backoff_most: float = 60.0
    confirm: float = 2.0
    """Between a refusal and its confirmation (R8)."""
    confirm_uncertain: float = 60.0
    """Over how long three refusals must lie when an attempt was ambiguous (R8)."""
    probe: float = 300.0
    """Between probes while a provider's breaker is open (R9)."""
    mass_window: float = 600.0
    lease_extra: float = 45.0
    """The lease is the whole time-out plus this: more than quarantine and commit."""
    retain_first: float = 0.05
    retain_most: float = 5.0
    adopt_after: float = 10.0
    """How long the store must have been there before another broker's expired lease is taken: longer than that one
    needs to store what it has retained."""
    tell_starting: float = 5.0
    """How long a start may take before operators who wait at the admin socket hear of it, and how often."""

    def scaled(self, factor: float) -> Self:
        """All times, shorter or longer by one factor."""
        return type(self)(**{field.name: getattr(self, field.name) * factor for field in fields(self)})


def backoff(attempts: int, timings: Timings) -> float:
    """After the n-th failure in a row that was certainly not processed."""
    return min(timings.backoff_first * 2.0 ** min(attempts - 1, 16), timings.backoff_most)


def quarantine(*, timed_out: bool, grace: float | None, timings: Timings) -> float:
    """How long the first request may still be processed; at most a third of a known grace."""
    wait = timings.quarantine_timeout if timed_out else timings.quarantine_dropped
    return wait if grace is None else min(wait, grace / 3)


def settle_after(ambiguous: int, *, timed_out: bool, grace: float | None, timings: Timings) -> float:
    """After the n-th ambiguous attempt on one generation: the quarantine, then 15, 30, 60 s, then 5 min."""
    first = quarantine(timed_out=timed_out, grace=grace, timings=timings)
    if ambiguous <= 1:
        return first
    step = timings.settle_first * 2.0 ** min(ambiguous - 2, 16)
    return max(first, step if ambiguous <= 4 else timings.settle_most)


def waits_for_expiry(rotation: Rotation, ambiguous: int, *, living: bool, rejected: bool) -> bool:
    """Whether an uncertain grant of a provider that punishes replays waits for its access token to end (R7)."""
    return rotation is Rotation.FAMILY and ambiguous > 0 and living and not rejected


def unknown_error_after(lasted: float, timings: Timings) -> float:
    """Between attempts while a provider answers with an error that is not known: up to 5 min in the first hour, then
    up to an hour."""
    return min(12 * timings.settle_most, max(timings.settle_most, lasted / 12))


def death_needs(ambiguous: int, *, unusual: bool = False) -> int:
    """How many refusals end a grant: two, or three where an attempt was ambiguous or a refusal unusual (R8)."""
    return 3 if ambiguous or unusual else 2


def confirm_after(
    refusals: int, first_refused_at: float, now: float, *, slow: bool, timings: Timings
) -> float:
    """How long until the next refusal may count."""
    if not slow or refusals < 2:
        return timings.confirm
    return max(timings.confirm, first_refused_at + timings.confirm_uncertain - now)
