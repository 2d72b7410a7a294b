"""systemd: its protocol for processes, the units of the broker, and the alert rules for Prometheus."""
