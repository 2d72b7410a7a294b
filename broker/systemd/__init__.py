"""How the broker talks to systemd, the units it runs as, and the rules it is watched by."""

from broker.systemd.activation import passed_sockets
from broker.systemd.notify import Notifier
from broker.systemd.rules import alert_rules
from broker.systemd.service import ServiceState, run_command, service_state, service_variables
from broker.systemd.unit import install

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
