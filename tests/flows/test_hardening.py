"""What the machine may see of the real process: no core, no tracing, no secret in its environment or arguments."""

import ctypes
import os
import signal
from pathlib import Path

import pytest

from broker.config import environment, wipe_variables
from tests.process import BROKER, Process, new_process

CANARY = "canary-8d40-from-the-environment"
# As root, owner and group of /proc/PID are told apart from those of the kernel by another group only.
OTHER_GROUP = ("setpriv", "--regid", "65534", "--clear-groups") if os.getuid() == 0 else ()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def proc(process: Process, name: str) -> Path:
    assert process.running is not None
    return Path("/proc") / str(process.running.pid) / name


async def test_no_core_is_written_and_nobody_looks_in(folder: Path) -> None:
    """RLIMIT_CORE is 0, and the process is not dumpable: what /proc tells of it is root's (proc(5))."""
    async with new_process(folder, command=(*OTHER_GROUP, *BROKER)) as process:
        await process.start()
        limits = proc(process, "limits").read_text()
        owner = proc(process, "environ").stat()

        assert ["0", "0", "bytes"] == limits.partition("Max core file size")[2].split()[:3]
        assert (0, 0) == (owner.st_uid, owner.st_gid)


async def test_secret_of_the_environment_is_wiped(folder: Path) -> None:
    """The kernel's copy too; a reload still knows it, and what is no secret stays."""
    async with new_process(folder, command=BROKER) as process:
        process.environ = {"KIT_SECRET": CANARY, "HARMLESS": "seen"}
        text = process.config.read_text().replace('"sandbox-kit-secret"', '{ env = "KIT_SECRET" }')
        process.config.write_text(text)
        await process.start()
        after_start = proc(process, "environ").read_bytes()
        await process.signal(signal.SIGHUP)
        reloaded = await process.until("STATUS=")
        after_reload = proc(process, "environ").read_bytes()

    assert "STATUS=serving tokens" in reloaded
    assert [b"HARMLESS=seen" in one for one in (after_start, after_reload)] == [True, True]
    assert [CANARY.encode() in one for one in (after_start, after_reload)] == [False, False]


def test_wiped_variable_is_not_inherited() -> None:
    """Taken out of this process; the value's bytes are overwritten where C would find them."""
    os.environ["TOKEN_BROKER_TEST"] = CANARY
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    value = getenv(b"TOKEN_BROKER_TEST")
    before = ctypes.string_at(value)

    wipe_variables({"TOKEN_BROKER_TEST", "NOT_THERE"})

    assert "TOKEN_BROKER_TEST" not in environment()
    assert getenv(b"TOKEN_BROKER_TEST") is None
    assert (CANARY.encode(), b"") == (before, ctypes.string_at(value))
