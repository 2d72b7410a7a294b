"""Free loopback ports, handed out so that parallel test workers do not meet."""

import itertools
import os
import socket

FIRST, EACH = 12_000, 5_000
"""Below the ports that the kernel gives to clients; so many for each worker, used again in turn."""
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0) % 4
_next = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """A port that nobody listens on just now."""
    while True:
        port = FIRST + EACH * _WORKER + next(_next) % EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
