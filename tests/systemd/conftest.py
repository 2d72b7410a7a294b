"""One machine for all tests of a worker; booting it and connecting an account takes some seconds."""

from collections.abc import Iterator

import pytest

from tests.systemd.machine import require_machine
from tests.systemd.service import Service, running


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, running."""
    require_machine()
    with running(tmp_path_factory.mktemp("machine")) as service:
        yield service
