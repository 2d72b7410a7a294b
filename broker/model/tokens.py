"""What providers give: secrets, token sets, their successors, spares, identities."""

import hmac
from dataclasses import dataclass
from typing import Never

from broker.model.account import Account, Ref


class Secret:
    """A string that does not print, pickle, copy or compare in variable time; `reveal()` is the only way out.

    It has no hash either: that would be a fingerprint, and sets and dicts compare in variable time.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # this is how a class says that it has none

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself. Call it only where the bytes leave for where they belong."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def __reduce__(self) -> Never:
        raise TypeError("a Secret cannot be pickled or copied")

    def __getstate__(self) -> Never:
        raise TypeError("a Secret cannot be pickled or copied")

    def _bytes(self) -> bytes:
        # A lone surrogate would raise UnicodeEncodeError, which carries the whole string with it.
        return self._value.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class TokenSet:
    """What a provider's token endpoint gave, parsed. Times are epoch seconds by our own clock."""

    access_token: Secret | None
    refresh_token: Secret | None
    """None: the provider sent none, so the one we hold goes on."""
    token_type: str
    scope: str | None
    """None: the provider did not say, so what was asked for holds."""
    issued_at: float
    expires_at: float
    flags: tuple[str, ...] = ()
    """What was odd about the answer, for log and audit: `expires_in_missing`, `token_unusable`, …"""
    refresh_expires_at: float | None = None
    """When the refresh token ends, where the provider says so (`refresh_token_expires_in`)."""

    @property
    def life(self) -> float:
        """The access token's issued life in seconds, at least one."""
        return max(1.0, self.expires_at - self.issued_at)


def window_opens(token: Account | TokenSet, ahead: float) -> float:
    """Return when the renewal window opens: `ahead` seconds before expiry, at most a third of the lifetime."""
    return token.expires_at - min(ahead, token.life / 3)


@dataclass(frozen=True, slots=True)
class Successor:
    """The token set that follows `parent`, sealed for generation `parent.generation + 1`."""

    parent: Ref
    sealed_access: str | None
    sealed_refresh: str | None
    token_type: str
    scope: str
    issued_at: float
    expires_at: float
    refreshed_at: float
    next_at: float | None
    """When the background should look at the account again."""
    unusable: bool
    grant_ends_at: float | None = None
    grant_ages: bool = False


@dataclass(frozen=True, slots=True)
class Spare:
    """A refresh token that was received but is not the current one."""

    id: str
    account: str
    epoch: int
    generation: int
    """Of the token that was sent when this one came back."""
    sealed: str
    received_at: float
    refusals: int = 0
    """`invalid_grant` answers to it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a grant belongs to at the provider."""

    external_id: str
    label: str | None = None
