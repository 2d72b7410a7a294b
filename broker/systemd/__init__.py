"""systemd: the interface to the process, the units that the broker runs as, and the alert rules."""
