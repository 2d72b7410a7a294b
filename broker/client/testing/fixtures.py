"""The fixture `fake_broker`, for pytest: name this module in `pytest_plugins` of the topmost conftest.py."""

from collections.abc import Iterator

import pytest

from . import FakeBroker


@pytest.fixture
def fake_broker() -> Iterator[FakeBroker]:
    """A broker of the test's own, listening on loopback; any account name gives a token."""
    with FakeBroker() as fake:
        yield fake
