"""Both clients, each in its turn."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.asking import Asker, new_asker

NewAsker = Callable[..., Asker]


@pytest.fixture(name="new", params=["async", "sync"])
def _new(request: pytest.FixtureRequest) -> Iterator[NewAsker]:
    """Makes askers with options of their own."""
    made: list[Asker] = []

    def new(**options: Any) -> Asker:
        made.append(new_asker(request.param, **options))
        return made[-1]

    yield new
    for asker in made:
        asker.fake.stop()


@pytest.fixture(name="asker")
def _asker(new: NewAsker) -> Asker:
    return new()
