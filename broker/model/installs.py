"""Connecting an account: the link's ticket, the authorization session, and the grant that waits for its identity."""

from dataclasses import dataclass

from broker.model.choice import Choice


@dataclass(frozen=True, slots=True)
class Ticket:
    """The permission to connect one account, used up by a successful callback. The install link carries its secret."""

    hash: str
    provider: str
    account: str | None
    """None: the account's name is derived from its id at the provider."""
    org: str | None
    return_to: str | None
    replace: bool
    """True if another identity may replace the stored one."""
    subject: str | None
    created_by: str
    expires_at: float
    spent_at: float | None = None


class InstallOutcome(Choice):
    """The outcome of an install. It is stored, so that a reloaded page shows it again."""

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
    """One authorization session at a provider: valid once, for ten minutes, in one browser."""

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
    """A grant that is stored, encrypted, with its install until its identity is known."""

    install: PendingInstall
    sealed_access: str | None
    sealed_refresh: str | None
    token_type: str
    scope: str
    issued_at: float
    expires_at: float
    next_at: float | None
    """The time at which the identity is requested again; None: never."""
    grant_ends_at: float | None = None
    """The time when the refresh token expires, if the provider says so."""


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """A sign-in at the company's app that is under way: valid once, for ten minutes, in one browser."""

    challenge_hash: str
    browser_hash: str
    purpose: str
    payload: str
    """JSON for the request that needed the sign-in."""
    expires_at: float
