"""How the broker talks to systemd, and the unit it runs as and the rules it is watched by."""

from broker.systemd.notify import Notifier
from broker.systemd.rules import alert_rules
from broker.systemd.unit import install

__all__ = ["Notifier", "alert_rules", "install"]
