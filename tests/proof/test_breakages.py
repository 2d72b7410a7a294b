"""The protocol's tests can fail: each breakage of its code, in a copy of the tree, turns one of them red."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.proof.breakages import BREAKAGES, Breakage

ROOT = Path(__file__).parents[2]
FAILED = 1
"""pytest's exit code when tests ran and some failed; others say that nothing was run."""


async def run_test(tree: Path, test: str) -> tuple[int | None, str]:
    """pytest's exit code and output for one test of a tree, whose packages come before the installed ones."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-n0", "-x", "--override-ini=addopts=-q --import-mode=importlib"),
        *("-p", "no:cacheprovider", test),
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_breakage_is_one_edit_of_the_code_as_it_stands(breakage: Breakage) -> None:
    """So that the list stays in step with the code."""
    text = (ROOT / breakage.file).read_text()

    assert 1 == text.count(breakage.right)
    assert (ROOT / breakage.caught_by.partition("::")[0]).is_file()


@pytest.mark.proof
@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
async def test_breakage_is_caught(tmp_path: Path, breakage: Breakage) -> None:
    """The named test passes on the code as it stands (the suite runs it) and fails on the broken one."""
    for name in ("broker", "tests", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    broken = tmp_path / breakage.file
    broken.write_text(broken.read_text().replace(breakage.right, breakage.wrong))

    code, out = await run_test(tmp_path, breakage.caught_by)

    print(*(line for line in out.splitlines() if line.startswith("E  ")), sep="\n")
    assert FAILED == code, out
