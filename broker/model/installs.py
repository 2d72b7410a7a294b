"""Connecting an account: permission, the trip, the grant that waits for its identity."""

from dataclasses import dataclass

from broker.model.choice import Choice


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission to connect one account, spent by a successful callback; the link holds its secret."""

    hash: str
    provider: str
    account: str | None
    """None: the account is named after the provider's id."""
    org: str | None
    return_to: str | None
    replace: bool
    """Whether another identity may take the place of the one stored."""
    subject: str | None
    created_by: str
    expires_at: float
    spent_at: float | None = None


class InstallOutcome(Choice):
    """How an attempt to connect ended; a second visit shows it again."""

    CONNECTED = "connected"
    REFUSED = "refused"
    FAILED = "failed"
    CONFLICT = "conflict"
    IDENTITY_PENDING = "identity_pending"

    @property
    def public(self) -> str:
        """The status that `return_to` receives: `connected`, `refused` or `failed`."""
        if self in (InstallOutcome.CONNECTED, InstallOutcome.IDENTITY_PENDING):
            return "connected"
        return "refused" if self is InstallOutcome.REFUSED else "failed"


@dataclass(frozen=True, slots=True)
class PendingInstall:
    """One trip to a provider and back: good once, for ten minutes, for one browser."""

    state_hash: str
    provider: str
    client_id: str
    browser_hash: str
    ticket_hash: str | None
    account: str | None
    org: str | None
    return_to: str | None
    kit_return_url: str | None
    replace: bool
    subject: str | None
    created_by: str
    sealed_verifier: str | None
    redirect_uri: str
    created_at: float
    expires_at: float
    taken_at: float | None = None
    outcome: InstallOutcome | None = None
    outcome_account: str | None = None


@dataclass(frozen=True, slots=True)
class PendingGrant:
    """A grant that lies sealed with its install until it is known whose it is."""

    install: PendingInstall
    sealed_access: str | None
    sealed_refresh: str | None
    token_type: str
    scope: str
    issued_at: float
    expires_at: float
    next_at: float | None
    """When the identity is asked for again; None: it never is."""
    grant_ends_at: float | None = None
    """When the refresh token ends, where the provider says so."""


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """Somebody was sent to the company's app to sign in; good once, for ten minutes, for one browser."""

    challenge_hash: str
    browser_hash: str
    purpose: str
    payload: str
    """JSON for whoever asked for the sign-in."""
    expires_at: float
