"""How the broker talks to systemd, the units it runs as, and the rules it is watched by."""

from broker.systemd.activation import passed_sockets
from broker.systemd.notify import Notifier
from broker.systemd.rules import alert_rules
from broker.systemd.unit import install

__all__ = ["Notifier", "alert_rules", "install", "passed_sockets"]
