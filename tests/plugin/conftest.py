"""One house for each file: every test has people and tokens of its own, and the clock only goes on."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.plugin.driving import Person, Stand, open_stand


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="stand")
async def _stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with open_stand(tmp_path_factory.mktemp("plugin") / "house") as stand:
        yield stand


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="codes")
async def _codes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """Without an app that signs people in: they type connect codes."""
    async with open_stand(tmp_path_factory.mktemp("codes") / "house", login=False) as stand:
        yield stand


@pytest_asyncio.fixture(loop_scope="module", name="person")
async def _person(stand: Stand) -> AsyncIterator[Person]:
    """A browser that nobody has used."""
    person = Person(stand.house)
    yield person
    await person.close()
