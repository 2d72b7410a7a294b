"""Values that providers issue: secrets, token sets and their successors, spare refresh tokens, identities."""

import hmac
from dataclasses import dataclass
from typing import Never

from broker.model.account import Account, Ref


class Secret:
    """A string that cannot be printed, pickled or copied, and is compared in constant time.

    `reveal()` is the only way to read it. It has no hash, because sets and dicts compare in variable time.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # this is how a class says that it has none

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret. Call it only where the bytes are sent or stored."""
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
    """The parsed answer of a provider's token endpoint. Times are epoch seconds by our own clock."""

    access_token: Secret | None
    refresh_token: Secret | None
    """None: the provider sent none, so the old one stays valid."""
    token_type: str
    scope: str | None
    """None: the provider did not say, so the requested scope was granted."""
    issued_at: float
    expires_at: float
    flags: tuple[str, ...] = ()
    """Oddities of the answer, for the log and the audit: `expires_in_missing`, `token_unusable`, …"""
    refresh_expires_at: float | None = None
    """The time when the refresh token expires, if the provider says so (`refresh_token_expires_in`)."""

    @property
    def life(self) -> float:
        """The lifetime of the access token in seconds, at least one."""
        return max(1.0, self.expires_at - self.issued_at)


def window_opens(token: Account | TokenSet, ahead: float) -> float:
    """Return when the renewal window opens: `ahead` seconds before expiry, at most a third of the lifetime."""
    return token.expires_at - min(ahead, token.life / 3)


@dataclass(frozen=True, slots=True)
class Successor:
    """The token set that follows `parent`, encrypted for generation `parent.generation + 1`."""

    parent: Ref
    sealed_access: str | None
    sealed_refresh: str | None
    token_type: str
    scope: str
    issued_at: float
    expires_at: float
    refreshed_at: float
    next_at: float | None
    """The time at which the background task next checks the account."""
    unusable: bool
    grant_ends_at: float | None = None
    grant_ages: bool = False


@dataclass(frozen=True, slots=True)
class Spare:
    """A refresh token that was received but is not the current one. It is tried before a grant is given up."""

    id: str
    account: str
    epoch: int
    generation: int
    """The generation of the token that was sent when this one was received."""
    sealed: str
    received_at: float
    refusals: int = 0
    """The number of times that the provider refused it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity at the provider to which a grant belongs."""

    external_id: str
    label: str | None = None
