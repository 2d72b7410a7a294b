"""Events: what changed, why, and what to do about it."""

from dataclasses import dataclass
from typing import Self

from broker.model.account import Account, Reason
from broker.model.choice import Cause, Labelled


class EventKind(Labelled):
    """A kind of event. If its tone is `good`, the event's reason names the problem that has ended."""

    CONNECTED = "connected", "Connected", "good"
    RENEWED = "renewed", "Renewed", "good"
    INSTALL_FAILED = "install_failed", "Install failed", "wait"
    REFRESH_FAILING = "refresh_failing", "Renewal failing", "wait"
    RECOVERED = "recovered", "Recovered", "good"
    NEEDS_REAUTHORIZATION = "needs_reauthorization", "Needs re-authorization", "bad"
    REAUTHORIZATION_DUE = "reauthorization_due", "Will need re-authorization", "wait"
    FROZEN = "frozen", "Frozen", "calm"
    UNFROZEN = "unfrozen", "Unfrozen", "good"
    DISCONNECTED = "disconnected", "Removed", "calm"
    RESTORED = "restored", "Restored", "good"
    PLUGIN_CONNECTED = "plugin_connected", "Plugin connected", "good"
    PLUGIN_DISCONNECTED = "plugin_disconnected", "Plugin disconnected", "calm"
    PROVIDER_REJECTED_CLIENT = "provider_rejected_client", "Provider refuses our client", "bad"
    BROKER_DEGRADED = "broker_degraded", "Broker degraded", "bad"
    BROKER_RECOVERED = "broker_recovered", "Broker recovered", "good"


class Incident(Cause):
    """The reasons of events that concern no single account."""

    COMMIT_RETAINED = (
        "commit_retained",
        "A renewed token cannot be stored.",
        "Free disk space or repair the disk, and do not restart: a renewed token is in memory only.",
    )
    AUDIT_WAITING = (
        "audit_waiting",
        "The audit cannot be written.",
        "Free disk space, or repair the journal; it then continues by itself.",
    )
    UNINSTALLED = "uninstalled", "The client revoked the grant.", None
    TOKEN_REPLAYED = (
        "token_replayed",
        "A replaced refresh token was used again, so it may have been stolen.",
        "Ask the client how its tokens got out.",
    )
    CODE_REPLAYED = (
        "code_replayed",
        "An authorization code was used twice, so it may have been stolen.",
        "Ask the client how its codes got out.",
    )
    REVOKED_BY_OPERATOR = "revoked_by_operator", "An operator ended the grant.", None


@dataclass(frozen=True, slots=True)
class Event:
    """One change, as it is stored and delivered to users and programs."""

    at: float
    kind: EventKind
    account: str | None = None
    provider: str | None = None
    reason: str | None = None
    generation: int | None = None
    id: int = 0
    """Assigned by the store."""
    subject: str | None = None
    """The user whose plugin was connected or disconnected, who may have no account here."""
    due_at: float | None = None
    """The time when the grant will end, if that is known; epoch seconds."""
    detail: str | None = None
    """The provider's answer or the failure of the connection, in words; it contains no secret."""
    actor: str | None = None
    """The operator or caller who did it; None: it happened by itself."""

    @classmethod
    def of(
        cls,
        account: Account,
        kind: EventKind,
        at: float,
        reason: Reason | None = None,
        *,
        detail: str | None = None,
        actor: str | None = None,
    ) -> Self:
        """Return the event that something happened to an account as it is given here."""
        generation = account.generation
        return cls(at, kind, account.name, account.provider, reason, generation, detail=detail, actor=actor)

    @property
    def cause(self) -> Cause | None:
        """The reason with its words; one that only a later version knows is shown by its value."""
        if self.reason is None:
            return None
        known = Reason.stored if self.reason in set(Reason) else Incident.stored
        return known(self.reason)

    @property
    def what_to_do(self) -> str | None:
        """The advice for an operator; None if there is nothing to do."""
        if self.cause is None or self.kind.tone == "good":
            return None
        return self.cause.advice(self.account, self.provider)
