"""One machine for all tests of a worker; booting it and connecting an account takes some seconds."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.machine import require_machine
from tests.systemd.service import Service, running


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The service, running; on a disk, because `systemd-creds` encrypts with no key that lies in memory."""
    require_machine()
    with (
        tempfile.TemporaryDirectory(prefix="broker-", dir="/var/tmp") as folder,
        running(Path(folder)) as service,
    ):
        yield service
