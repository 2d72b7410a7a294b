"""The tokens a program holds: how long each may be used, and how long while the broker is away."""

from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from broker.client.token import Token

USE_NOW = 1
"""With this `expires_in` a renewal is under way: used at once, never kept."""
MARGIN = 1.0
"""Seconds before its death at which a token is given up: the broker tells times in whole seconds."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A token, in our own monotonic seconds: the machines' clocks need not agree."""

    token: Token
    fresh_until: float
    dies_at: float


class Memory:
    """What is held for each account; safe between threads."""

    def __init__(self, *, while_away: float) -> None:
        self._while_away = while_away
        self._kept: dict[str, Kept] = {}
        self._lock = Lock()

    def fresh(self, account: str, now: float, min_ttl: float = 0.0) -> Token | None:
        """A token that needs no asking."""
        kept = self._kept.get(account)
        if kept is None or now >= kept.fresh_until or now + min_ttl > kept.dies_at:
            return None
        return kept.token

    def living(self, account: str, now: float) -> Token | None:
        """A token that the provider still takes, for as long as is allowed without the broker."""
        kept = self._kept.get(account)
        if kept is None or now >= min(kept.dies_at - MARGIN, kept.fresh_until + self._while_away):
            return None
        return kept.token

    def keep(self, account: str, token: Token, asked_at: float) -> None:
        """Remember an answer to what was asked at `asked_at`; an older generation never replaces a newer."""
        fresh_for = token.expires_in if token.expires_in > USE_NOW else 0
        kept = Kept(token, asked_at + fresh_for, asked_at + token.expires_in + _life_after(token))
        with self._lock:
            before = self._kept.get(account)
            if before is None or before.token.generation <= token.generation:
                self._kept[account] = kept

    def forget(self, account: str, generation: int | None = None) -> None:
        """Hold nothing of the account any more; nothing of that generation, where one is given."""
        with self._lock:
            kept = self._kept.get(account)
            if kept is not None and generation in (None, kept.token.generation):
                del self._kept[account]


def _life_after(token: Token) -> float:
    """Seconds from `expires_at` to the provider's own end, both by the broker's clock."""
    try:
        end = datetime.fromisoformat(token.provider_expires_at or token.expires_at)
        return max(0.0, (end - datetime.fromisoformat(token.expires_at)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
