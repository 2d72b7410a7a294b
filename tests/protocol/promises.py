"""The invariants that are judged on a state; those on a move are noted by the move."""

from broker.sandbox.faults import Mode
from tests.protocol.provider import KEEPING
from tests.protocol.state import NOBODY, NONE, At, Broker, Says, State


def promise(state: State) -> str:
    """What this state breaks, or nothing."""
    return _falsely_dead(state) or _intent_left(state) or _only_in_memory(state) or _lost(state)


def _falsely_dead(state: State) -> str:
    row = state.row
    if row.dead and (state.works(row.token) or state.works(row.spare)):
        return "I2 given up, and a stored token of theirs works"
    return ""


def _intent_left(state: State) -> str:
    """Nobody is at it and nothing is in doubt, and yet an intent lies there."""
    row = state.row
    if (
        row.intent == NOBODY
        or row.ambiguous
        or state.wire
        or any(broker != Broker() for broker in state.brokers)
    ):
        return ""
    return "I6 an intent outlives a definite answer"


def _only_in_memory(state: State) -> str:
    """C13: what the store refuses lies in the spool before anything else is done."""
    for broker in state.brokers:
        if broker.at is At.RETAINED and broker.gives not in state.stored:
            return "C13 a received token lies nowhere but in memory"
    return ""


def _lost(state: State) -> str:
    """At rest no stored token works; against strict providers that is lost only if one was never stored."""
    if not _rests(state) or any(state.works(token) for token in (state.row.token, state.row.spare)):
        return ""
    if state.mode in KEEPING:
        return "an account is lost that can be kept"
    never_stored = len(state.tokens) - 1 not in state.stored
    # Whoever stood still sends a token that has been replaced, and that ends a family.
    return (
        ""
        if never_stored or (state.mode is Mode.FAMILY and state.stood_still)
        else "I8 lost, and the newest token was stored"
    )


def _rests(state: State) -> bool:
    """No answer is in memory, on the wire or in the spool, and nothing can be processed any more."""
    listened = any(r.sender != NOBODY or r.says is Says.NOTHING_YET for r in state.wire)
    busy = any(broker.at is not At.IDLE for broker in state.brokers)
    return not (listened or busy or state.row.spool != NONE)
