"""The command `broker`, also `python -m broker`."""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from broker.cli import broker


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line. The exit code is 0 if done, 1 if failed, 2 for wrong usage."""
    for number in range(3):
        # A closed standard file is opened on /dev/null; else the next file or socket would take its number.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has None for those that it found closed.
    sys.stdin = sys.stdin or open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # A character that the locale does not have is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            broker(args, prog_name="broker")
        finally:
            sys.stdout.flush()
    except OSError as exc:
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
