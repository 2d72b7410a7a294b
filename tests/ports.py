"""Free loopback ports, handed out so that neither workers nor whole runs on one machine meet."""

import itertools
import os
import socket
from functools import cache

FIRST, EACH, SHARES = 12_000, 500, 40
"""Below the ports that the kernel gives to clients; so many for each process, used again in turn."""
_next = itertools.count()


def free_port() -> int:
    """A port that nobody listens on just now."""
    while True:
        port = FIRST + EACH * _share() + next(_next) % EACH
        with socket.socket() as probe:
            # As servers do: a connection that has ended here does not keep the port for a minute.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@cache
def _share() -> int:
    """The number of a share that no other process has; a name in the network namespace, as ports are, until it ends."""
    for number in range(SHARES):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0token-broker-ports-{number}")
        except OSError:
            name.close()
        else:
            name.detach()
            return number
    return os.getpid() % SHARES
