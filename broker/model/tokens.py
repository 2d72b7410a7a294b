"""What providers give: token sets, their successors, spares, identities."""

from dataclasses import dataclass

from broker.model.account import Ref
from broker.model.secret import Secret


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
