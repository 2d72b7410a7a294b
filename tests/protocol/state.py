"""What the model remembers: provider, network, store and brokers, small enough to be searched exhaustively."""

from enum import StrEnum
from typing import NamedTuple

from broker.sandbox.faults import Mode

NOBODY = -1
NONE = -1
"""No token."""


class Worth(StrEnum):
    """What a refresh token is worth at the provider."""

    GOOD = "good"
    OLD = "old"
    """Superseded; works for as long as the mode lets it."""
    DEAD = "dead"


class At(StrEnum):
    """Where a broker is in one renewal; the words between two steps of `broker.tokens.schedule.Step`."""

    IDLE = "idle"
    GATED = "gated"
    CONNECTED = "connected"
    INTENDED = "intended"
    WAITING = "waiting"
    ANSWERED = "answered"
    COMMITTED = "committed"
    RETAINED = "retained"


class Says(StrEnum):
    """What a request has come to at the provider."""

    NOTHING_YET = "flying"
    GRANTED = "granted"
    REFUSED = "refused"
    CLIENT_REFUSED = "client refused"


class Request(NamedTuple):
    """One POST on its way, or its answer on its way back."""

    token: int
    sender: int
    """The broker that still listens for the answer; NOBODY: it has given up, or died."""
    says: Says = Says.NOTHING_YET
    gives: int = NONE


class Row(NamedTuple):
    """What is durable: the account's row, its spare, the spool."""

    generation: int = 0
    token: int = 0
    intent: int = NOBODY
    """The broker that holds the lease."""
    lease_over: bool = False
    ambiguous: bool = False
    refusals: int = 0
    spare: int = NONE
    spare_refusals: int = 0
    spool: int = NONE
    dead: bool = False


class Broker(NamedTuple):
    """What one process holds in memory, and loses in a crash."""

    at: At = At.IDLE
    read: int = 0
    """The generation that it has read."""
    token: int = NONE
    """The one that it is about to send, or has sent."""
    from_spare: bool = False
    first: bool = False
    """The spare goes before the account's own token."""
    says: Says = Says.NOTHING_YET
    gives: int = NONE


class Budget(NamedTuple):
    """How much may still go wrong, and how often the account is renewed at all."""

    renewals: int = 2
    crashes: int = 1
    drops: int = 1
    """Messages that never arrive, answers that are cut, brokers that stop waiting."""
    false_words: int = 1
    """Answers of the provider that are not true: a refusal, a refused client."""
    store_failures: int = 0
    stalls: int = 0
    """Leases that end while their holder stands still."""


class State(NamedTuple):
    """Everything, at one moment."""

    mode: Mode
    tokens: tuple[Worth, ...] = (Worth.GOOD,)
    """By number, in the order in which the provider issued them."""
    wire: tuple[Request, ...] = ()
    row: Row = Row()
    quarantined: bool = False
    brokers: tuple[Broker, ...] = (Broker(),)
    stored: frozenset[int] = frozenset({0})
    """Every token that was durable at some moment."""
    released: int = 0
    """The newest token whose access token callers have."""
    budget: Budget = Budget()
    stood_still: bool = False
    """A lease has ended because its holder stood still for longer; two requests may then meet."""
    broken: str = ""
    """The invariant that the last move broke, if one."""

    def works(self, token: int) -> bool:
        """Whether a renewal with it would be answered with tokens now."""
        return token != NONE and self.tokens[token] is not Worth.DEAD

    def with_broker(self, number: int, broker: Broker) -> "State":
        brokers = (*self.brokers[:number], broker, *self.brokers[number + 1 :])
        return self._replace(brokers=brokers)

    def spend(self, kind: str) -> "State":
        """One of the budget less."""
        left = getattr(self.budget, kind) - 1
        return self._replace(budget=self.budget._replace(**{kind: left}))
