"""One connection to a provider: its tokens, its status and the reasons for it."""

import re
from dataclasses import dataclass, field, replace
from typing import Self

from broker.model.choice import Cause, Labelled

ACCOUNT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)

ENDLESS = 100 * 366 * 86400.0
"""The lifetime in seconds that a token gets whose expiry nobody stated: it is valid until the provider rejects it."""


def is_account_name(text: str) -> bool:
    """Return whether `text` may be an account's name: lower-case ASCII letters, digits, `. _ -`, at most 128."""
    return ACCOUNT_NAME.fullmatch(text) is not None


class Reason(Cause):
    """The reason why an account is not active, with a sentence and what to do. The values are part of the API."""

    REVOKED_OR_EXPIRED = (
        "revoked_or_expired",
        "The provider says that the grant was revoked or has expired.",
        "Send the user an install link (broker install-link) and have them connect again.",
    )
    LOST_ROTATION = (
        "lost_rotation",
        "The provider issued a new refresh token whose answer never reached us; the old one no longer works.",
        "Send the user an install link (broker install-link) and have them connect again.",
    )
    NO_REFRESH_TOKEN = (
        "no_refresh_token",
        "The provider gave no refresh token, and the access token has expired.",
        "Ask for offline_access in the provider's scopes, then have the user connect again.",
    )
    GRANT_AGES = (
        "grant_ages",
        "The provider ends this grant on a fixed day, which renewals do not move.",
        "Send the user an install link (broker install-link), to connect again before that day.",
    )
    GRANT_IDLES = (
        "grant_idles",
        "The provider ends grants that are not renewed for long, and this one is not renewed.",
        "Unfreeze it, set refresh.idle_renewal, or correct what keeps it from being renewed.",
    )
    PROVIDER_UNAVAILABLE = (
        "provider_unavailable",
        "The provider cannot be reached.",
        "Nothing; it is tried again. If it lasts, look at the provider's status page.",
    )
    PROVIDER_DECLINED = (
        "provider_declined",
        "The provider answers renewals with an error that says nothing about the grant.",
        "Nothing at first; it is tried again. If it lasts, run `broker check`.",
    )
    PROVIDER_PAUSED = (
        "provider_paused",
        "The provider asked the broker to pause.",
        "Nothing; renewals continue when the pause is over.",
    )
    CLIENT_REFUSED = (
        "provider_rejected_client",
        "The provider rejects the broker's client id or secret.",
        "Check the provider's client_id and client_secret in the configuration, then reload.",
    )
    APP_NOT_INSTALLED = (
        "app_not_installed?",
        "Kustomer answers “Invalid Client”: the app may not be installed in this organisation.",
        "Have the organisation's administrator install the app at Kustomer.",
    )
    CLIENT_NOT_CONFIGURED = (
        "client_not_configured",
        "The grant belongs to an OAuth client that is not in the configuration.",
        "Add the old client under the provider's previous_clients, then reload.",
    )
    REFUSED_ONCE = (
        "refused_once",
        "The provider refused the refresh token once; the broker checks that a second time.",
        "Nothing; the outcome is known within a minute or two.",
    )
    UNCERTAIN = (
        "answer_unknown",
        "A renewal was sent and its answer never came, so its outcome is unknown.",
        "Nothing; the broker tries again by itself. `broker accounts refresh ACCOUNT` tries immediately.",
    )
    UNREADABLE = (
        "answer_unreadable",
        "The answer to a renewal could not be read, so its outcome is unknown.",
        "Nothing at first; the broker tries again by itself. If it lasts, see the detail in `broker events`.",
    )
    UNKNOWN_ERROR = (
        "unknown_error",
        "The provider answers renewals with an error the broker does not know.",
        "If it means that the grant is revoked, add it to the provider's dead_errors, then reload.",
    )
    REJECTED = (
        "rejected_by_provider",
        "The provider's API rejects fresh tokens, as it does when a plan has lapsed.",
        "Look at the account's plan and permissions at the provider.",
    )
    STORAGE = (
        "storage_unavailable",
        "The store cannot be written.",
        "Free disk space, or repair the disk; renewals then continue by themselves.",
    )
    RECORD_DAMAGED = (
        "record_damaged",
        "The stored tokens cannot be decrypted: their record is damaged, or its key is missing.",
        "Check the disk. Restore a backup with the missing key, or have the user connect again.",
    )
    TOKEN_UNUSABLE = (
        "token_unusable",
        "The provider sent an access token that cannot be used: no header can carry it, or it is no Bearer token.",
        "See the detail in `broker events`. If its tokens are Bearer tokens, set the provider's token_type.",
    )
    DUPLICATE_IDENTITY = (
        "duplicate_identity",
        "This account has the same identity at the provider as another account.",
        "Remove this account, or the other one and unfreeze this.",
    )
    OPERATOR = (
        "operator",
        "An operator froze it.",
        "`broker accounts unfreeze ACCOUNT` when it may be renewed again.",
    )
    EXPORTED = (
        "exported",
        "An operator exported its refresh token, so that another system renews it.",
        "Remove it; or `broker accounts unfreeze ACCOUNT`, if the other system never used the token.",
    )
    MASS_REFUSAL = (
        "mass_refusal",
        "Many accounts were refused at once, which looks like the provider's or our own mistake.",
        "Check client secrets and the provider's status; then `broker providers resume PROVIDER`.",
    )
    COPIED_STORE = (
        "copied_store",
        "The store is a copy or an old backup, so nothing is renewed from it.",
        "If no other broker runs on the original, type `broker adopt`.",
    )

    def describe(self, detail: str | None) -> str:
        """Return what happened, with the provider's error if the reason is about one."""
        if self is Reason.UNKNOWN_ERROR and detail:
            return f"{self.happened.removesuffix('.')}: {detail}."
        return self.happened


class Status(Labelled):
    """The status of an account: the first from the top that applies."""

    NEEDS_REAUTHORIZATION = "needs_reauthorization", "needs re-authorization", "bad"
    FROZEN = "frozen", "frozen", "calm"
    UNCERTAIN = "uncertain", "outcome unknown", "wait"
    REFRESH_FAILING = "refresh_failing", "renewal failing", "wait"
    ACTIVE = "active", "active", "good"


@dataclass(frozen=True, slots=True)
class Intent:
    """The durable record that this generation's refresh token is about to be sent. It is also the lease (R3)."""

    id: str
    generation: int
    at: float
    owner: str | None
    """The process that wrote it, `boot@replica`; None: the attempt ended with an unknown outcome, the lease is free."""
    until: float
    """The time when the lease expires, epoch seconds by the store's clock."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The record of failed renewals of the current generation."""

    reason: Reason | None = None
    since: float | None = None
    attempts: int = 0
    """Failures in a row, for the backoff."""
    not_before: float | None = None
    """The earliest time of the next attempt, epoch seconds."""
    ambiguous: int = 0
    """Attempts on this generation whose outcome is unknown."""
    refusals: int = 0
    """Refusals on this generation."""
    first_refused_at: float | None = None
    unusual: bool = False
    """One of the refusals was not `invalid_grant` in a 4xx, so more of them are needed to end the grant."""
    detail: str | None = None
    """The provider's last answer or the failure, in words; it contains no secret."""


@dataclass(frozen=True, slots=True)
class Ref:
    """One generation of one grant of one account. Every change of a token is conditional on it."""

    name: str
    epoch: int
    generation: int


@dataclass(frozen=True, slots=True)
class Account:
    """One connection to a provider as it is stored, with encrypted tokens."""

    name: str
    provider: str
    epoch: int
    """Rises with each new grant that a user gives. A late answer of an older epoch is dropped."""
    generation: int
    """Rises by one with each stored token set, and never goes back for a name."""
    client_id: str
    """The OAuth client that obtained the grant, which is renewed only with that client."""
    sealed_access: str | None
    sealed_refresh: str | None
    token_type: str
    scope: str
    issued_at: float
    expires_at: float
    """The time when the access token expires, by our clock."""
    refreshed_at: float
    created_at: float
    external_id: str | None = None
    """The identity at the provider: Kit's account id, Kustomer's org id."""
    label: str | None = None
    subject: str | None = None
    """The user's id in the company's own app."""
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
    """The access token cannot be sent in a Bearer header. It is stored but never handed out."""
    grant_ends_at: float | None = None
    """The time when the refresh token expires, if the provider says so; epoch seconds."""
    grant_ages: bool = False
    """Renewals do not move `grant_ends_at`."""

    @property
    def life(self) -> float:
        """The lifetime of the access token in seconds, at least one."""
        return max(1.0, self.expires_at - self.issued_at)

    @property
    def is_endless(self) -> bool:
        """True if the provider stated no expiry of the access token."""
        return self.expires_at - self.issued_at >= ENDLESS / 2

    @property
    def status(self) -> Status:
        """The status that is shown for the account."""
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
    def ref(self) -> Ref:
        """The generation of the grant that this account holds."""
        return Ref(self.name, self.epoch, self.generation)

    @property
    def reason(self) -> Reason | None:
        """The reason for the status; None if all is well."""
        without = Reason.NO_REFRESH_TOKEN if self.sealed_refresh is None and not self.is_endless else None
        return self.dead or self.frozen or self.trouble.reason or without

    @property
    def since(self) -> float | None:
        """The time since which the account has this status, epoch seconds; None if all is well."""
        if self.dead:
            return self.dead_since
        return self.frozen_since if self.frozen else self.trouble.since

    def with_trouble(self, trouble: Trouble) -> Self:
        """Return the account with another trouble."""
        return replace(self, trouble=trouble)
