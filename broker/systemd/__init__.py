"""systemd: what it tells the process, the units that the broker runs as, and the alert rules."""

from broker.systemd.process import Notifier, passed_sockets
from broker.systemd.unit import (
    ServiceState,
    alert_rules,
    install,
    run_command,
    service_state,
    service_variables,
)

__all__ = [
    "Notifier",
    "ServiceState",
    "alert_rules",
    "install",
    "passed_sockets",
    "run_command",
    "service_state",
    "service_variables",
]
