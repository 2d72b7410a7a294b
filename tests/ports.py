"""Free loopback ports, handed out so that parallel test workers do not meet."""

import itertools
import os
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0)
_next = itertools.count(21_000 + 1_500 * _WORKER + os.getpid() % 700)


def free_port() -> int:
    """A port that nobody listens on just now."""
    while True:
        port = next(_next)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
