"""What people and programs hear of."""

from dataclasses import dataclass
from typing import Self

from broker.model.account import Account, Reason
from broker.model.choice import Cause, Labelled


class EventKind(Labelled):
    """Transitions that people and programs hear of. In a good one, the reason says what is over."""

    CONNECTED = "connected", "Connected", "good"
    RENEWED = "renewed", "Renewed", "good"
    INSTALL_FAILED = "install_failed", "Install failed", "wait"
    REFRESH_FAILING = "refresh_failing", "Renewal failing", "wait"
    RECOVERED = "recovered", "Recovered", "good"
    NEEDS_REAUTHORIZATION = "needs_reauthorization", "Needs a person", "bad"
    REAUTHORIZATION_DUE = "reauthorization_due", "Will need a person", "wait"
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
    """The reasons of events that are no account's."""

    COMMIT_RETAINED = (
        "commit_retained",
        "A renewed token cannot be stored.",
        "Free disk space or mend the disk, and do not restart: a renewed token is in memory only.",
    )
    AUDIT_WAITING = (
        "audit_waiting",
        "The audit cannot be written.",
        "Free disk space, or see to the journal; then it goes on by itself.",
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
    """Something changed, once."""

    at: float
    kind: EventKind
    account: str | None = None
    provider: str | None = None
    reason: str | None = None
    generation: int | None = None
    id: int = 0
    """Given by the store."""
    subject: str | None = None
    """Whose plugin was connected or disconnected; such a person may have no account here."""
    due_at: float | None = None
    """When the grant will end, where that is foretold; epoch seconds."""
    detail: str | None = None
    """What was answered, or what failed below HTTP, in words; nothing of it is secret."""
    actor: str | None = None
    """Who did it: the name of an operator or a caller; None: it happened by itself."""

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
        """Why it happened, in words; one that is unknown here is shown by its name."""
        if self.reason is None:
            return None
        known = Reason.stored if self.reason in set(Reason) else Incident.stored
        return known(self.reason)

    @property
    def what_to_do(self) -> str | None:
        if self.cause is None or self.kind.tone == "good":
            return None
        return self.cause.advice(self.account, self.provider)
