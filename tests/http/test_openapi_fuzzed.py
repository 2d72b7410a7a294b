"""Both listeners answer as they say they do, whatever is sent: schemathesis with all checks on."""

import asyncio
from pathlib import Path

import pytest

from tests.http.openapi_fuzzing import fuzz, open_target

pytestmark = pytest.mark.slow

LISTENERS = ("internal", "public")
SHORT = ("--phases", "coverage", "--exclude-path-regex", "^/(dashboard/|static/|events$)")
"""The dashboard's pages and the files of pages are left to the long form; a stream of events has no end to judge."""


async def test_every_route_keeps_its_word(tmp_path: Path) -> None:
    """At the edges of what each schema allows, and just beyond."""
    async with open_target(tmp_path / "run") as process:
        runs = await asyncio.gather(*[fuzz(process, one, *SHORT) for one in LISTENERS])
        crashes = process.events("request.crashed")

    assert [0, 0] == [run.code for run in runs], "\n".join(run.output for run in runs)
    assert [] == crashes
    assert all(run.cases > 100 for run in runs)


@pytest.mark.proof
@pytest.mark.parametrize("listener", LISTENERS)
async def test_every_route_keeps_its_word_for_long(tmp_path: Path, listener: str) -> None:
    """All phases: examples, edges, random values, and requests that build on one another."""
    async with open_target(tmp_path / "run") as process:
        run = await fuzz(process, listener, "--max-examples", "60", "--exclude-path", "/events")
        crashes = process.events("request.crashed")

    print(run.cases, "cases against", listener)
    assert 0 == run.code, run.output
    assert [] == crashes
