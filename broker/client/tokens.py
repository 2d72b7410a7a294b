"""A token as a program uses it, and the cache of tokens: how long each may be used, with and without the broker."""

from datetime import datetime
from threading import Lock
from typing import Any, NamedTuple, Self

USE_NOW = 1
"""With this `expires_in` a renewal is under way: use the token immediately, never cache it."""
MARGIN = 1.0
"""Seconds before its end at which a token is no longer used, because the broker states whole seconds."""


class Token(str):
    """An access token: a str that goes into a header, with the members of the broker's answer.

    The str is the secret. Its `repr`, which a traceback or a logged dict shows, does not hold it.
    """

    account: str
    provider: str
    token_type: str
    scope: str | None
    expires_in: int
    """Seconds for which it may be cached, from the broker's answer on."""
    expires_at: str
    """The end of that time, RFC 3339."""
    provider_expires_at: str | None
    """The time when the token expires at the provider, RFC 3339; not for caching."""
    generation: int
    """The number of this token; it increases with each renewal, and a report of a rejected token names it."""
    warning: str | None
    """The reason why it could not be renewed now."""

    @classmethod
    def read(cls, payload: dict[str, Any]) -> Self:
        """Return the token in the broker's JSON answer; raises ValueError if it is not one."""
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
        """The secret itself, as a plain str."""
        return str(self)

    @property
    def header(self) -> str:
        """The value of the header `Authorization`."""
        return f"Bearer {self}"

    def __repr__(self) -> str:
        return f"<Token of {self.account}, generation {self.generation}>"


class Kept(NamedTuple):
    """A cached token, with times of the local monotonic clock, because the machines' clocks may differ."""

    token: Token
    fresh_until: float
    ends_at: float


class Memory:
    """A cache of one token for each account; safe between threads."""

    def __init__(self, *, while_away: float) -> None:
        self._while_away = while_away
        self._kept: dict[str, Kept] = {}
        self._lock = Lock()

    def fresh(self, account: str, now: float, min_ttl: float = 0.0) -> Token | None:
        """Return a token that may be used without asking the broker, or None."""
        kept = self._kept.get(account)
        if kept is None or now >= kept.fresh_until or now + min_ttl > kept.ends_at:
            return None
        return kept.token

    def valid(self, account: str, now: float) -> Token | None:
        """Return a token that is valid at the provider and may be used while the broker is away, or None."""
        kept = self._kept.get(account)
        if kept is None or now >= min(kept.ends_at - MARGIN, kept.fresh_until + self._while_away):
            return None
        return kept.token

    def keep(self, account: str, token: Token, asked_at: float) -> None:
        """Cache the token of a request that was sent at `asked_at`, unless a newer generation is cached."""
        fresh_for = token.expires_in if token.expires_in > USE_NOW else 0
        try:
            # The time from `expires_at` to the end at the provider, both by the broker's clock.
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
        """Drop the account's token; with `generation` only if it is that one."""
        with self._lock:
            kept = self._kept.get(account)
            if kept is not None and generation in (None, kept.token.generation):
                del self._kept[account]
