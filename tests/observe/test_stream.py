"""Log lines never fail and never wait, on real sockets and files."""

import asyncio
import io
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest

from broker.observe.logs import LogStream


@pytest.fixture
def journal() -> Iterator[tuple[socket.socket, TextIO]]:
    """The journal's end, and what a process under systemd has as standard error."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.setblocking(False)
    # Wide, as systemd makes it: the kernel then cuts long lines, and may take only a part of one.
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with theirs, ours, os.fdopen(os.dup(ours.fileno()), "w") as stderr:
        ours.close()
        yield theirs, stderr


def read(journal: socket.socket) -> str:
    """All that has come."""
    found = b""
    while True:
        try:
            found += journal.recv(1 << 20)
        except BlockingIOError:
            return found.decode()


def test_lines_arrive_whole(journal: tuple[socket.socket, TextIO]) -> None:
    """In order, as they were given."""
    theirs, stderr = journal
    lines = LogStream(stderr)

    lines.write("first\n")
    lines.write("zweite: ü\n")
    lines.flush()

    assert "first\nzweite: ü\n" == read(theirs)


async def test_lines_of_one_turn_go_together(journal: tuple[socket.socket, TextIO]) -> None:
    """In order, also where another line does not wait."""
    theirs, stderr = journal
    lines = LogStream(stderr)

    lines.write_soon("first\n")
    lines.write_soon("second\n")
    early = read(theirs)
    lines.write("at once\n")
    at_once = read(theirs)
    lines.write_soon("third\n")
    await asyncio.sleep(0)

    assert ("", "first\nsecond\nat once\n", "third\n") == (early, at_once, read(theirs))


async def test_block_that_was_taken_in_part_is_counted_in_lines(
    journal: tuple[socket.socket, TextIO],
) -> None:
    """What went out whole is not told as lost."""
    theirs, stderr = journal
    lines = LogStream(stderr)
    given = [f"{number} {'x' * 100_000}\n" for number in range(100)]

    for line in given:
        lines.write_soon(line)
    await asyncio.sleep(0)
    taken = read(theirs)
    lines.write("after\n")
    *_, notice, last = (taken + read(theirs)).splitlines()

    whole = sum(line in taken for line in given)
    assert 0 < whole < len(given)
    assert len(given) - whole == json.loads(notice)["lines"]
    assert "after" == last


@pytest.mark.parametrize(("length", "count"), [(1_000, 1_000), (250_000, 10)])
def test_a_journal_that_hangs_holds_nobody_up(
    journal: tuple[socket.socket, TextIO], length: int, count: int
) -> None:
    """What it does not take is lost, and counted once it reads again; no line is glued to a part of another."""
    theirs, stderr = journal
    lines = LogStream(stderr)
    given = [json.dumps({"n": number, "padding": "x" * length}) for number in range(count)]

    for line in given:
        lines.write(line + "\n")
    taken = read(theirs)
    lines.write("after\n")
    told = (taken + read(theirs)).splitlines()
    notice, last = told[-2:]

    whole = [line for line in told if line in given]
    assert 0 < len(whole) < len(given)
    assert given[: len(whole)] == whole
    assert {"event": "log.lines_lost", "level": "warning", "lines": len(given) - len(whole)} == json.loads(
        notice
    )
    assert "after" == last


def test_a_journal_that_is_gone_harms_nobody(journal: tuple[socket.socket, TextIO]) -> None:
    """Not with an exception, and not with a signal."""
    theirs, stderr = journal
    lines = LogStream(stderr)
    theirs.close()
    given = ["nobody\n", "reads\n", "this\n"]

    told = [lines.write(line) for line in given]
    lines.flush()

    assert [len(line) for line in given] == told


def test_a_file_that_is_full_or_closed_harms_nobody(tmp_path: Path) -> None:
    """Not every standard error is a journal."""
    closed = (tmp_path / "closed").open("w")
    closed.close()
    told = []
    # Closing tries once more, and fails.
    with suppress(OSError), Path("/dev/full").open("w", buffering=1) as full:
        told = [LogStream(stream).write("nobody reads this\n") for stream in (closed, full)]

    assert [len("nobody reads this\n")] * 2 == told


def test_a_stream_without_a_descriptor_is_written_as_it_is() -> None:
    """As tests have them."""
    text = io.StringIO()

    LogStream(text).write("line\n")

    assert "line\n" == text.getvalue()
