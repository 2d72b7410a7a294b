"""Where the files of a run lie, and fixtures that every room's tests share."""

import ctypes
import gc
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.house import House, open_house
from tests.postgres import end_servers

pytest_plugins = ["broker.client.testing.fixtures"]
NEW_MOUNTS, PRIVATE, DETACHED = 0x20000, 0x44000, 2
"""CLONE_NEWNS; MS_PRIVATE for everything; MNT_DETACH."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep the files of a run with workers in memory, where root may mount: a broker waits for the disk at each commit.

    The mount is seen by this process and its children alone, and ends with them.
    """
    if not getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        return
    folder, libc = Path(tempfile.mkdtemp(prefix="broker-")), ctypes.CDLL(None)
    config.add_cleanup(folder.rmdir)
    if libc.unshare(NEW_MOUNTS) or libc.mount(None, b"/", None, PRIVATE, None):
        return
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"mode=0700") == 0:
        config.option.basetemp = folder / "run"
        config.add_cleanup(lambda: libc.umount2(bytes(folder), DETACHED))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let the collector pass over thousands of tests; with its own pace it takes an eighth of a run's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A broker and a sandbox, nothing connected yet."""
    async with open_house(tmp_path / "house") as house:
        yield house


@pytest.fixture(scope="session", autouse=True)
def _servers() -> Iterator[None]:
    """PostgreSQL is started by the first test that needs it, and ended by the last."""
    yield
    end_servers()
