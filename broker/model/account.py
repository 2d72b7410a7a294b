"""One connection to a provider, and what its life can come to."""

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

ACCOUNT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)


def is_account_name(text: str) -> bool:
    """Whether `text` may name an account: lower-case ASCII, digits, `. _ -`, at most 128."""
    return ACCOUNT_NAME.fullmatch(text) is not None


class Reason(StrEnum):
    """Why an account is not simply active. The words are part of the API; `wire` puts them plainly."""

    REVOKED_OR_EXPIRED = "revoked_or_expired"
    LOST_ROTATION = "lost_rotation"
    NO_REFRESH_TOKEN = "no_refresh_token"
    GRANT_AGES = "grant_ages"
    GRANT_IDLES = "grant_idles"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_DECLINED = "provider_declined"
    PROVIDER_PAUSED = "provider_paused"
    CLIENT_REFUSED = "provider_rejected_client"
    APP_NOT_INSTALLED = "app_not_installed?"
    CLIENT_NOT_CONFIGURED = "client_not_configured"
    REFUSED_ONCE = "refused_once"
    UNCERTAIN = "answer_unknown"
    REJECTED = "rejected_by_provider"
    STORAGE = "storage_unavailable"
    TOKEN_UNUSABLE = "token_unusable"
    DUPLICATE_IDENTITY = "duplicate_identity"
    OPERATOR = "operator"
    EXPORTED = "exported"
    MASS_REFUSAL = "mass_refusal"
    COPIED_STORE = "copied_store"


class Status(StrEnum):
    """What an account is, first that applies from the top."""

    NEEDS_REAUTHORIZATION = "needs_reauthorization"
    FROZEN = "frozen"
    UNCERTAIN = "uncertain"
    REFRESH_FAILING = "refresh_failing"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class Intent:
    """The durable note “about to send this generation's refresh token”; it is the lease as well (R3)."""

    id: str
    generation: int
    at: float
    owner: str | None
    """Who wrote it, `boot@replica`; None: the attempt ended without a known outcome, and the lease is nobody's."""
    until: float
    """When the lease runs out, epoch seconds by the store's clock."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is known about failed renewals of the current generation."""

    reason: Reason | None = None
    since: float | None = None
    attempts: int = 0
    """Failures in a row, for the backoff."""
    not_before: float | None = None
    """No attempt before this moment, epoch seconds."""
    ambiguous: int = 0
    """Attempts on this generation whose outcome is unknown."""
    refusals: int = 0
    """`invalid_grant` answers on this generation."""
    first_refused_at: float | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """One generation of one grant of one account: what every change of a token is conditioned on."""

    name: str
    epoch: int
    generation: int


@dataclass(frozen=True, slots=True)
class Account:
    """One connection to a provider, as stored. Tokens are sealed; `tokens` opens them."""

    name: str
    provider: str
    epoch: int
    """Rises with each new grant from a person; a late answer of an older epoch is dropped."""
    generation: int
    """Rises by one with each stored token set and never goes back for a name."""
    client_id: str
    """The OAuth client that minted the grant; it is renewed with that client only."""
    sealed_access: str | None
    sealed_refresh: str | None
    token_type: str
    scope: str
    issued_at: float
    expires_at: float
    """The provider's expiry by our clock."""
    refreshed_at: float
    created_at: float
    external_id: str | None = None
    """Who this is at the provider: Kit's account id, Kustomer's org id."""
    label: str | None = None
    subject: str | None = None
    """Who this is at the company."""
    org: str | None = None
    last_used_at: float | None = None
    frozen: Reason | None = None
    frozen_since: float | None = None
    dead: Reason | None = None
    dead_since: float | None = None
    removed_at: float | None = None
    intent: Intent | None = None
    trouble: Trouble = field(default_factory=Trouble)
    unusable: bool = False
    """The access token holds characters that no header can carry: stored, never served."""
    grant_ends_at: float | None = None
    """Until when the provider lets the refresh token live, where it says so; epoch seconds."""
    grant_ages: bool = False
    """That day is fixed: a renewal did not move it."""

    @property
    def life(self) -> float:
        """The access token's issued life in seconds, at least one."""
        return max(1.0, self.expires_at - self.issued_at)

    @property
    def status(self) -> Status:
        if self.dead:
            return Status.NEEDS_REAUTHORIZATION
        if self.frozen:
            return Status.FROZEN
        if self.trouble.ambiguous:
            return Status.UNCERTAIN
        # A provider that rejects fresh tokens (a lapsed plan) is a reason to show, not a failed renewal.
        if self.trouble.reason in (None, Reason.REJECTED):
            return Status.ACTIVE
        return Status.REFRESH_FAILING

    @property
    def ref(self) -> "Ref":
        return Ref(self.name, self.epoch, self.generation)

    @property
    def reason(self) -> Reason | None:
        without = Reason.NO_REFRESH_TOKEN if self.sealed_refresh is None else None
        return self.dead or self.frozen or self.trouble.reason or without

    @property
    def since(self) -> float | None:
        if self.dead:
            return self.dead_since
        return self.frozen_since if self.frozen else self.trouble.since

    def with_trouble(self, trouble: Trouble) -> Self:
        return replace(self, trouble=trouble)
