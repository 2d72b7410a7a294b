"""Bars are for people: on a terminal's standard error, and never in what goes into a file or a pipe."""

import asyncio
import os
import pty
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from broker.cli.transfer import ONE_AT_A_TIME
from tests.commanding import commands_at
from tests.foreign import issued_elsewhere, line, write_lines
from tests.house import House

LONG = {
    "Importing": ("accounts", "import", "{file}", "--yes"),
    "Exporting": ("accounts", "export", "{new}", "--yes"),
    "Sealing anew": ("keys", "rewrap"),
    "Copying": ("backup", "{new}"),
}


async def typed(house: House, words: tuple[str, ...], errors: int) -> tuple[int | None, bytes]:
    """The real process; its exit code and standard output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "--config", str(house.folder / "config.toml"), *words),
        stdout=PIPE,
        stderr=errors,
        env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        | {"TERM": "xterm", "COLUMNS": "100"},
    )
    out, _ = await process.communicate()
    return process.returncode, out


@pytest.mark.parametrize(
    "bar",
    ["Importing", *(pytest.param(bar, marks=pytest.mark.proof) for bar in LONG if bar != "Importing")],
)
async def test_long_work_shows_a_bar_on_a_terminal(house: House, tmp_path: Path, bar: str) -> None:
    """It names the work; standard output holds the sentence alone."""
    await house.connect()
    ours, theirs = pty.openpty()

    async with commands_at(house):
        code, out = await typed(house, words_for(house, tmp_path, bar), theirs)
    os.close(theirs)
    shown = os.read(ours, 100_000)
    os.close(ours)

    assert 0 == code
    assert bar.encode() in shown
    assert out.strip()
    assert b"\x1b" not in out


async def test_there_is_no_bar_in_a_pipe(house: House, tmp_path: Path) -> None:
    """Standard error holds the warning alone."""
    await house.connect()
    errors = tmp_path / "errors"

    async with commands_at(house):
        with errors.open("wb") as quiet:
            code, _ = await typed(house, words_for(house, tmp_path, "Importing"), quiet.fileno())

    assert (0, f"{ONE_AT_A_TIME}\n") == (code, errors.read_text())


def words_for(house: House, folder: Path, bar: str) -> tuple[str, ...]:
    file = write_lines(folder / "grants.jsonl", [line("other", issued_elsewhere(house, 1)[0])])
    return tuple(word.format(file=file, new=folder / "new") for word in LONG[bar])
