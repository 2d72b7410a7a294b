"""A token as a caller holds it, and the memory of them: how long each may be used, with and without the broker."""

from datetime import datetime
from threading import Lock
from typing import Any, NamedTuple, Self

USE_NOW = 1
"""With this `expires_in` a renewal is under way: used at once, never kept."""
MARGIN = 1.0
"""Seconds before its end at which a token is given up: the broker tells times in whole seconds."""


class Token(str):
    """An access token: text that goes into a header, with what the broker says of it.

    As text it is the secret itself; its `repr`, and so a traceback or a dict in a log, is not.
    """

    account: str
    provider: str
    token_type: str
    scope: str | None
    expires_in: int
    """Seconds for which it may be kept, counted from the broker's answer."""
    expires_at: str
    """The same as a moment, RFC 3339."""
    provider_expires_at: str | None
    """When the provider lets it die, RFC 3339; never for caching."""
    generation: int
    """Counts up with each renewal; names this very token in a report that the provider rejected it."""
    warning: str | None
    """Why it could not be renewed just now."""

    @classmethod
    def read(cls, payload: dict[str, Any]) -> Self:
        """From the broker's JSON; raises ValueError where that is something else."""
        access_token, generation = payload.get("access_token"), payload.get("generation")
        expires_in = payload.get("expires_in")
        if not isinstance(access_token, str) or not access_token or not isinstance(generation, int):
            raise ValueError("no access_token or generation in the answer")
        if not isinstance(expires_in, int):
            raise ValueError("no expires_in in the answer")
        token = cls(access_token)
        token.generation, token.expires_in = generation, expires_in
        token.account, token.provider = str(payload.get("account")), str(payload.get("provider"))
        token.token_type, token.scope = str(payload.get("token_type", "Bearer")), payload.get("scope")
        token.expires_at = str(payload.get("expires_at"))
        token.provider_expires_at = payload.get("provider_expires_at")
        token.warning = payload.get("warning")
        return token

    @property
    def access_token(self) -> str:
        return str(self)

    @property
    def header(self) -> str:
        """The value of `Authorization`."""
        return f"Bearer {self}"

    def __repr__(self) -> str:
        return f"<Token of {self.account}, generation {self.generation}>"


class Kept(NamedTuple):
    """A token, in our own monotonic seconds: the machines' clocks need not agree."""

    token: Token
    fresh_until: float
    ends_at: float


class Memory:
    """What is kept for each account; safe between threads."""

    def __init__(self, *, while_away: float) -> None:
        self._while_away = while_away
        self._kept: dict[str, Kept] = {}
        self._lock = Lock()

    def fresh(self, account: str, now: float, min_ttl: float = 0.0) -> Token | None:
        """A token that needs no asking."""
        kept = self._kept.get(account)
        if kept is None or now >= kept.fresh_until or now + min_ttl > kept.ends_at:
            return None
        return kept.token

    def living(self, account: str, now: float) -> Token | None:
        """A token that the provider still takes, for as long as is allowed without the broker."""
        kept = self._kept.get(account)
        if kept is None or now >= min(kept.ends_at - MARGIN, kept.fresh_until + self._while_away):
            return None
        return kept.token

    def keep(self, account: str, token: Token, asked_at: float) -> None:
        """Remember an answer to what was asked at `asked_at`; an older generation never replaces a newer."""
        fresh_for = token.expires_in if token.expires_in > USE_NOW else 0
        try:
            # From `expires_at` to the provider's own end, both by the broker's clock.
            end = datetime.fromisoformat(token.provider_expires_at or token.expires_at)
            beyond = max(0.0, (end - datetime.fromisoformat(token.expires_at)).total_seconds())
        except (ValueError, TypeError):
            beyond = 0.0
        kept = Kept(token, asked_at + fresh_for, asked_at + token.expires_in + beyond)
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
