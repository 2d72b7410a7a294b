"""How the broker talks to systemd, and the units it runs as: `Notifier`, `passed_sockets` and `install`."""

from broker.systemd.activation import passed_sockets
from broker.systemd.notify import Notifier
from broker.systemd.unit import install

__all__ = ["Notifier", "install", "passed_sockets"]
