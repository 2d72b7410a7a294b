"""The steps and times that the renewal protocol names, and the arithmetic on the times. No I/O."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

from broker.config.settings import Rotation


class Step(StrEnum):
    """A moment of a renewal that the protocol's crash table names. Proofs stop the process at each of them."""

    GATE_PASSED = "R1 gate passed"
    CONNECTED = "R2 connected, intent not yet written"
    INTENT_DURABLE = "R3 intent durable, nothing sent"
    ANSWERED = "R5 answer in memory, not yet stored"
    COMMIT_DURABLE = "R6 commit durable, not yet published"
    SPOOLED = "R6 store refused, token set is in the spool"
    SETTLED = "R7 outcome noted"


Watch = Callable[[Step], None]
"""Called at each step of a renewal."""


def unwatched(step: Step) -> None:
    """Do nothing at a step. Only tests watch the steps."""


@dataclass(frozen=True, slots=True)
class Timings:
    """The protocol's times in seconds. They are not configurable, but proofs shrink them all together."""

    quarantine_dropped: float = 3.0
    """After a dropped connection, before the same token is sent again (R7)."""
    quarantine_timeout: float = 10.0
    """After our own timeout: the provider may still be processing the request."""
    settle_first: float = 15.0
    settle_most: float = 300.0
    """15, 30, 60, then every 5 minutes (R7)."""
    backoff_first: float = 1.0
    backoff_most: float = 60.0
    confirm: float = 2.0
    """Between a refusal and the attempt that confirms it (R8)."""
    confirm_uncertain: float = 60.0
    """The least time between the first and the third refusal if an attempt was ambiguous (R8)."""
    probe: float = 300.0
    """Between probes while a provider's breaker is open (R9)."""
    mass_window: float = 600.0
    lease_extra: float = 45.0
    """The lease lasts this much longer than the request's timeout, which is longer than quarantine and commit."""
    retain_first: float = 0.05
    retain_most: float = 5.0
    adopt_after: float = 10.0
    """How long the store must be reachable before another broker's expired lease is taken over: longer than that broker
    needs to store the token sets that it has retained."""
    tell_starting: float = 5.0
    """How often a long start is reported to operators who wait at the admin socket."""

    def scaled(self, factor: float) -> Self:
        """Return all times multiplied by `factor`."""
        return type(self)(**{field.name: getattr(self, field.name) * factor for field in fields(self)})


def backoff(attempts: int, timings: Timings) -> float:
    """Return the pause after the n-th failure in a row that the provider certainly did not process."""
    return min(timings.backoff_first * 2.0 ** min(attempts - 1, 16), timings.backoff_most)


def quarantine(*, timed_out: bool, grace: float | None, timings: Timings) -> float:
    """Return how long the first request may still be processed; at most a third of a known grace."""
    wait = timings.quarantine_timeout if timed_out else timings.quarantine_dropped
    return wait if grace is None else min(wait, grace / 3)


def settle_after(ambiguous: int, *, timed_out: bool, grace: float | None, timings: Timings) -> float:
    """Return the pause after the n-th ambiguous attempt on one generation: the quarantine, then 15, 30, 60 s, 5 min."""
    first = quarantine(timed_out=timed_out, grace=grace, timings=timings)
    if ambiguous <= 1:
        return first
    step = timings.settle_first * 2.0 ** min(ambiguous - 2, 16)
    return max(first, step if ambiguous <= 4 else timings.settle_most)


def waits_for_expiry(rotation: Rotation, ambiguous: int, *, valid: bool, rejected: bool) -> bool:
    """Return whether a grant with an unknown outcome waits until its access token expires, because the provider
    revokes the whole family when a refresh token is replayed (R7)."""
    return rotation is Rotation.FAMILY and ambiguous > 0 and valid and not rejected


def unknown_error_after(lasted: float, timings: Timings) -> float:
    """Return the pause between attempts while a provider answers with an error that the broker does not know.

    It is 5 minutes in the first hour and grows up to an hour; `lasted` is how long the error has lasted.
    """
    return min(12 * timings.settle_most, max(timings.settle_most, lasted / 12))


def death_needs(ambiguous: int, *, unusual: bool = False) -> int:
    """Return how many refusals end a grant: two, or three if an attempt was ambiguous or a refusal unusual (R8)."""
    return 3 if ambiguous or unusual else 2


def confirm_after(
    refusals: int, first_refused_at: float, now: float, *, slow: bool, timings: Timings
) -> float:
    """Return the pause before the next refusal may count."""
    if not slow or refusals < 2:
        return timings.confirm
    return max(timings.confirm, first_refused_at + timings.confirm_uncertain - now)
