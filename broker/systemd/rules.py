"""The alert rules for Prometheus that come with the broker."""

from importlib import resources

RULES = "token-broker-alerts.yaml"


def alert_rules() -> str:
    """A rule file as Prometheus reads it."""
    return resources.files("broker.systemd").joinpath(RULES).read_text()
