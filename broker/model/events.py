"""What people and programs hear of."""

from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """Transitions that people and programs hear of."""

    CONNECTED = "connected"
    RENEWED = "renewed"
    REFRESH_FAILING = "refresh_failing"
    RECOVERED = "recovered"
    NEEDS_REAUTHORIZATION = "needs_reauthorization"
    REAUTHORIZATION_DUE = "reauthorization_due"
    DISCONNECTED = "disconnected"
    PLUGIN_CONNECTED = "plugin_connected"
    PLUGIN_DISCONNECTED = "plugin_disconnected"
    PROVIDER_REJECTED_CLIENT = "provider_rejected_client"
    BROKER_DEGRADED = "broker_degraded"
    BROKER_RECOVERED = "broker_recovered"


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
