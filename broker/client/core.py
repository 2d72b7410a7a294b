"""What both clients decide, without I/O: whether to ask, and what to give while the broker is away."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.client.conversation import (
    Question,
    Talk,
    pause_after,
    rejected_question,
    talk,
    token_question,
)
from broker.client.errors import (
    AuditUnavailable,
    BrokerAway,
    BrokerError,
    Internal,
    KeyUnreadable,
    Overloaded,
    RateLimited,
    StorageUnavailable,
)
from broker.client.keys import KeySource
from broker.client.memory import Memory
from broker.client.token import Token

log = logging.getLogger("broker.client")

TIMEOUT = 15.0
"""Seconds for one answer; the broker itself waits ten for a renewal."""
TIMEOUT_WITH_TOKEN = 3.0
"""With a living token at hand nobody waits long for an answer."""
ABOUT_ITSELF = (BrokerAway, KeyUnreadable, Overloaded, StorageUnavailable, AuditUnavailable, Internal)
"""Errors on the way to the broker or of its own, which say nothing of the account."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long things may take, seconds."""

    patience: float
    """How long one call goes on asking when there is no token at all."""
    while_away: float
    """How long past its `expires_in` a living token is used while the broker is away."""

    def __post_init__(self) -> None:
        if self.patience < 0 or self.while_away < 0:
            raise ValueError("patience and while_away are seconds, not negative")


@dataclass(slots=True)
class Outage:
    """The broker is away, and is asked less often."""

    failures: int = 0
    ask_again_at: float = 0.0
    told: set[str] = field(default_factory=set)
    """Accounts about which the log has its line."""


@dataclass(frozen=True, slots=True)
class Unrenewable:
    """The broker will not renew this generation until then."""

    generation: int
    until: float
    error: RateLimited


class Core:
    """Questions as talks; whoever does the I/O drives them."""

    def __init__(self, *, keys: KeySource, options: Options, now: Callable[[], float]) -> None:
        self._keys, self._options, self._now = keys, options, now
        self._memory = Memory(while_away=options.while_away)
        self._outage = Outage()
        self._unrenewable: dict[str, Unrenewable] = {}

    def at_hand(self, account: str, min_ttl: float) -> Token | None:
        """A token that needs no asking: a fresh one, or a living one in the pauses of an outage."""
        now = self._now()
        fresh = self._memory.fresh(account, now, min_ttl)
        if fresh is not None or now >= self._outage.ask_again_at:
            return fresh
        return self._memory.living(account, now)

    def newer(self, token: Token) -> Token | None:
        """A fresh token that came after one that was rejected; raises RateLimited while there cannot be one."""
        known = self._unrenewable.get(token.account)
        if known is not None and known.generation == token.generation and self._now() < known.until:
            raise known.error
        fresh = self._memory.fresh(token.account, self._now())
        return fresh if fresh is not None and fresh.generation > token.generation else None

    def get(self, account: str, min_ttl: float) -> Talk:
        """A token from the broker; while it is away, one that lives."""
        living = self._memory.living(account, self._now())
        try:
            return (yield from self._ask(account, token_question(account, min_ttl), living))
        except ABOUT_ITSELF as exc:
            return self._instead(account, exc)
        except BrokerError:
            self._memory.forget(account)
            raise

    def rejected(self, account: str, generation: int) -> Talk:
        """A token after one that the provider's API refused."""
        try:
            return (yield from self._ask(account, rejected_question(account, generation), None))
        except RateLimited as exc:
            # The provider refuses whatever is fresh, so asking at every request would change nothing.
            until = self._now() + (exc.retry_after or 1.0)
            self._unrenewable[account] = Unrenewable(generation, until, exc)
            raise
        except BrokerError:
            self._memory.forget(account, generation)
            raise

    def _ask(self, account: str, question: Question, living: Token | None) -> Talk:
        try:
            answered = yield from talk(
                question,
                keys=self._keys,
                patience=self._options.patience,
                timeout=TIMEOUT if living is None else TIMEOUT_WITH_TOKEN,
                is_final=lambda error: living is not None and isinstance(error, ABOUT_ITSELF),
                now=self._now,
            )
        except ABOUT_ITSELF as exc:
            self._away(exc)
            raise
        self._back()
        self._memory.keep(account, answered.token, answered.asked_at)
        return answered.token

    def _instead(self, account: str, error: BrokerError) -> Token:
        """The living token, or else the failure."""
        living = self._memory.living(account, self._now())
        if living is None:
            raise error
        if account not in self._outage.told:
            self._outage.told.add(account)
            log.warning(
                "the broker is away; going on with the last token of %s, generation %d: %s",
                account,
                living.generation,
                error,
            )
        return living

    def _away(self, error: BrokerError) -> None:
        outage = self._outage
        outage.ask_again_at = self._now() + (pause_after(error, outage.failures) or 1.0)
        outage.failures = min(outage.failures + 1, 16)

    def _back(self) -> None:
        told = self._outage.told
        self._outage = Outage()
        if told:
            log.warning("the broker is back after going on without it for: %s", ", ".join(sorted(told)))
