"""How the broker talks to systemd, and the unit it runs as: `Notifier` and `install`."""

from broker.systemd.notify import Notifier
from broker.systemd.unit import install

__all__ = ["Notifier", "install"]
