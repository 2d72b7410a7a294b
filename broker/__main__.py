"""The command `broker`, also as `python -m broker`."""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from broker.cli import broker


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0 done, 1 failed, 2 wrong usage."""
    _open_standard_files()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # Whatever the locale, a letter that it does not have is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            broker(args, prog_name="broker")
        finally:
            sys.stdout.flush()
    except OSError as exc:
        _fail(exc)


def _open_standard_files() -> None:
    """What is closed leads nowhere: else the next file or socket would be taken for standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has none where it found them closed.
    sys.stdin = sys.stdin or open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115


def _fail(exc: OSError) -> None:
    """Say what could not be written, where that can be said."""
    what = exc.filename or "Standard output"
    with suppress(OSError):
        sys.stderr.write(f"{what} cannot be written: {exc.strerror or type(exc).__name__}.\n")
        sys.stderr.flush()
    with suppress(OSError, ValueError):
        # Python would try to write the rest at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


if __name__ == "__main__":
    main()
