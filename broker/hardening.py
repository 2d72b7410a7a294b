"""Asked of the kernel before any secret is read: no core file, and no other process of this user looks in."""

import ctypes
import resource
from contextlib import suppress

PR_SET_DUMPABLE = 4


def harden() -> None:
    """No core dump, no tracing, `/proc/PID/environ` for root alone (prctl(2), proc(5)); less without Linux."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core handler behind a pipe ignores the limit, but not this.
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
