"""What a test needs from the machine, and what to type where the machine lacks it."""

import os
import shutil
from typing import NoReturn

import pytest


def missing(message: str) -> NoReturn:
    """Skip the test with a message; under CI nothing is skipped, so fail it there."""
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def needs(command: str, *, package: str | None = None) -> str:
    """Return the path of a command that `.ci/setup` installs."""
    return shutil.which(command) or missing(
        f"{command} is missing; type: sudo apt-get install {package or command}"
    )
