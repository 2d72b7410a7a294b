"""The moments of a renewal that the crash table of the protocol names; proofs stop the process at each."""

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """Between which two things a crash would fall."""

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
