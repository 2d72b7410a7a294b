"""What a test needs from the machine, and what to type where the machine lacks it."""

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def missing(message: str) -> NoReturn:
    """Skip the test with a message; under CI nothing is skipped, so fail it there."""
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def needs(command: str, *, package: str | None = None) -> str:
    """Return the path of a command that `.ci/setup` installs, or unpacks beside our Python."""
    beside = Path(sys.executable).parent
    return shutil.which(command, path=f"{beside}:{os.environ.get('PATH', os.defpath)}:/usr/sbin") or missing(
        f"{command} is missing; type: sudo apt-get install {package or command}"
    )
