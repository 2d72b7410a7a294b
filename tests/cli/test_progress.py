"""Bars are for people: on a terminal's standard error, and never in what goes into a file or a pipe."""

import asyncio
import os
import pty
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("bar", LONG)
async def test_long_work_shows_a_bar_on_a_terminal_only(house: House, tmp_path: Path, bar: str) -> None:
    """On a terminal the bar names the work; in a pipe there is nothing but the sentence."""
    await house.connect()
    file = write_lines(tmp_path / "grants.jsonl", [line("other", issued_elsewhere(house, 1)[0])])
    ours, theirs = pty.openpty()
    quiet = (tmp_path / "errors").open("wb")

    async with commands_at(house):
        on_terminal, in_pipe = [
            await typed(
                house,
                tuple(word.format(file=file, new=tmp_path / f"new-{errors}") for word in LONG[bar]),
                errors,
            )
            for errors in (theirs, quiet.fileno())
        ]
    os.close(theirs)
    shown = os.read(ours, 100_000)
    os.close(ours)
    quiet.close()

    assert (0, 0) == (on_terminal[0], in_pipe[0])
    assert bar.encode() in shown
    assert bar.encode() not in (tmp_path / "errors").read_bytes()
    assert b"\x1b" not in on_terminal[1] + in_pipe[1]
    assert on_terminal[1].strip()
