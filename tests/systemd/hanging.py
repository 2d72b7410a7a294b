"""Runs the broker, and hangs its event loop in the middle of a renewal while a file says so.

`python -m tests.systemd.hanging FILE --config PATH serve`.
"""

import os
import sys
import threading
from pathlib import Path

from broker.serve import run
from broker.tokens.schedule import Step


def main() -> int:
    """The exit code of the broker."""
    _, order, *rest = sys.argv
    config = Path(rest[rest.index("--config") + 1])

    def watch(step: Step) -> None:
        if step is Step.CONNECTED and Path(order).exists():
            Path(order).unlink()
            threading.Event().wait()

    return run(config, os.environ, watch=watch)


if __name__ == "__main__":
    sys.exit(main())
