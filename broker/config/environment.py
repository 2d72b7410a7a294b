"""The process's environment: the only place that reads it, and where what was secret in it is wiped."""

import ctypes
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress


def environment() -> Mapping[str, str]:
    """A copy of the environment as it is now."""
    return dict(os.environ)  # noqa: TID251 - this is the one place


def wipe_variables(names: Iterable[str]) -> None:
    """Take variables out: children do not inherit them, and `/proc/PID/environ` no longer shows their values.

    What was there before is not undone: the parent's own copy, `docker inspect`, `systemctl show`.
    """
    wanted = {os.fsencode(name) for name in names}
    # Where there is no `environ` to be had, taking them out must do.
    with suppress(ValueError):
        _overwrite(wanted)
    for name in wanted:
        os.environb.pop(name, None)


def _overwrite(names: set[bytes]) -> None:
    """Zeros over the values where the kernel put them, which is what `/proc/PID/environ` shows (proc(5))."""
    entries = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    index = 0
    while address := entries[index]:
        name, _, value = ctypes.string_at(address).partition(b"=")
        if name in names:
            ctypes.memset(address + len(name) + 1, 0, len(value))
        index += 1
