"""What systemd is told, what it holds for us, and the service under a real one."""
