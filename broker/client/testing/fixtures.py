"""The pytest fixture `fake_broker`: name this module in `pytest_plugins` of the topmost conftest.py."""

from collections.abc import Iterator

import pytest

from . import FakeBroker


@pytest.fixture
def fake_broker() -> Iterator[FakeBroker]:
    """Yield a FakeBroker of the test's own, listening on loopback; every account name has a token."""
    with FakeBroker() as fake:
        yield fake
