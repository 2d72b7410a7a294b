"""The examples of calling the broker, taken from their page and run against a real broker."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.client.testing import FakeBroker
from tests.missing import needs
from tests.pages import ROOT, all_blocks
from tests.process import Process, new_process

pytestmark = pytest.mark.asyncio(loop_scope="module")
BLOCKS = [(block.language, block.text) for block in all_blocks("bash", "python", "js")]
CALLS = list(dict.fromkeys(block for block in BLOCKS if "https://api.kit.com/v4/account" in block[1]))


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="process")
async def _process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Process]:
    async with new_process(tmp_path_factory.mktemp("calling") / "run") as process:
        await process.start()
        await process.new_key("acme")
        await process.connect("acme")
        yield process


async def run(process: Process, language: str, text: str) -> tuple[int, str, str]:
    """As somebody would who copies it, with this broker's address and the sandbox in Kit's place."""
    here = text.replace("http://127.0.0.1:8080", process.internal)
    here = here.replace("https://api.kit.com", f"{process.sandbox.base_url}/kit")
    ran = await asyncio.create_subprocess_exec(
        *{
            "bash": ("bash", "-euc"),
            "python": (sys.executable, "-c"),
            "js": ("node", "--input-type=module", "-e"),
        }[language],
        here,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(process.folder),
            "PYTHONPATH": str(ROOT),
            "BROKER_KEY": process.key,
            "BROKER_CONFIG": str(process.config),
        },
    )
    out, err = await ran.communicate()
    return ran.returncode or 0, out.decode(), err.decode()


@pytest.mark.parametrize(("language", "text"), CALLS, ids=lambda value: value if value.isalpha() else "")
async def test_lines_of_the_pages_reach_the_api(process: Process, language: str, text: str) -> None:
    """Pasted as they stand; the API answers with the account."""
    needs({"bash": "curl", "python": sys.executable, "js": "node"}[language])

    code, out, err = await run(process, language, text)

    assert (0, "") == (code, err)
    assert "Kit Greetings" in out
    assert len(text.strip().splitlines()) <= 5


async def test_every_way_of_calling_is_shown() -> None:
    """curl, the command line, Python and JavaScript."""
    assert {"bash", "python", "js"} == {language for language, _ in CALLS}
    assert any(text.startswith("broker token ") for _, text in CALLS)


async def test_library_in_the_example_prints_the_token(process: Process) -> None:
    """The program with asyncio."""
    program = next(text for _, text in BLOCKS if "asyncio.run(main())" in text)
    token = (await process.get("/token/acme")).json["access_token"]

    code, out, err = await run(process, "python", program)

    assert (0, f"{token}\n", "") == (code, out, err)


async def test_test_in_the_example_passes(fake_broker: FakeBroker) -> None:
    """What callers copy into their own suite."""
    text = next(text for _, text in BLOCKS if "def test_" in text)
    names: dict[str, Any] = {}
    exec(text, names)

    await asyncio.to_thread(names["test_new_token_after_a_rejected_one"], fake_broker)

    assert [("acme", 1)] == fake_broker.reported
