"""A kill after any commit of an install leaves no half: each prefix of the write-ahead log is a whole state."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.house import House
from tests.installs.test_flow import Browser, returned

STATE = """
SELECT i.grant_meta IS NOT NULL, i.outcome, t.spent_at IS NOT NULL,
       COALESCE((SELECT epoch FROM accounts), 0), (SELECT event FROM events ORDER BY id DESC LIMIT 1)
  FROM installs i JOIN tickets t ON t.hash = i.ticket_hash ORDER BY i.created_at DESC LIMIT 1"""
State = tuple[bool, str | None, bool, int, str | None]
"""Whether a grant is held, the outcome, whether the link is spent, the account's epoch, the last event."""


@pytest.fixture(name="browser")
async def _browser() -> AsyncIterator[Browser]:
    browser = Browser()
    yield browser
    await browser.close()


def commits(house: House) -> list[int]:
    """Where in the write-ahead log each commit ends (sqlite.org/fileformat2.html, 4.2)."""
    log = (house.folder / "var" / "broker.db-wal").read_bytes()
    frame = 24 + int.from_bytes(log[8:12])
    return [
        at + frame
        for at in range(32, len(log) - frame + 1, frame)
        if log[at + 8 : at + 16] == log[16:24] and any(log[at + 4 : at + 8])
    ]


def states(house: House, before: int, folder: Path) -> list[State]:
    """What a start would find after each commit but the first `before` ones, had the broker been killed there."""
    var, found = house.folder / "var", []
    for end in commits(house)[before:]:
        (folder / "copy.db").write_bytes((var / "broker.db").read_bytes())
        (folder / "copy.db-wal").write_bytes((var / "broker.db-wal").read_bytes()[:end])
        with closing(sqlite3.connect(folder / "copy.db")) as copy:
            [(held, outcome, spent, epoch, event)] = copy.execute(STATE).fetchall()
        (folder / "copy.db-wal").unlink(missing_ok=True)
        found.append((bool(held), outcome, bool(spent), epoch, event))
    return found


TAKEN: State = (False, None, False, 0, None)
HELD: State = (True, None, False, 0, None)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({}, [TAKEN, HELD, (False, "connected", True, 1, "connected")]),
        ({"identity_status": 503}, [TAKEN, HELD, (True, "connected", True, 1, "connected")]),
        ({"drop": "before", "times": 1}, [TAKEN, (False, "failed", False, 0, "install_failed")]),
    ],
)
async def test_each_commit_of_a_callback_is_whole(
    house: House, browser: Browser, tmp_path: Path, faults: dict[str, object], expected: list[State]
) -> None:
    """The account, the spent link, the outcome and the event are there together, or none is."""
    address = await returned(house, browser)
    house.sandbox.faults.set("kit", **faults)
    before = len(commits(house))

    await browser.open(address)

    assert expected == states(house, before, tmp_path)


@pytest.mark.parametrize("late", [False, True])
async def test_each_commit_of_a_conflict_is_whole(
    house: House, browser: Browser, tmp_path: Path, late: bool
) -> None:
    """A conflict that is only found out later is told by its event alone, so that is in its transaction."""
    await house.connect("kit", "acme", account="31")
    house.clock.advance(1)
    address = await returned(house, browser)
    before = len(commits(house))
    house.sandbox.faults.set("kit", identity_status=503 if late else None)

    await browser.open(address)
    house.sandbox.faults.set("kit", identity_status=None)
    house.clock.advance(10)
    await house.broker.installs.service.identify_held()

    told = "install_failed" if late else "connected"
    expected = [(held, outcome, False, 1, "connected") for held, outcome in ((False, None), (True, None))]
    assert [*expected, (False, "conflict", False, 1, told)] == states(house, before, tmp_path)
