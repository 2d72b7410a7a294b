"""Verifies the chains of audit lines from files or a stream, and reads the last generation of each account."""

import asyncio
import hmac
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from broker.audit.lines import Head, KeyOf, Line, Macs, parse_line
from broker.audit.sinks import AuditFile, last_lines

MOST_TOLD = 20
READ_BACK = 4 * 1024 * 1024
ACCOUNTS_READ = 500
ADOPTED = b'"action":"adopt"'
HANDED_OUT = re.compile(
    rb'"at":"([^"]+)",.*"action":"token","account":"([^"]+)",.*"request_id":"(?:[^"\\]|\\.)*","generation":(\d+)'
)


@dataclass(frozen=True, slots=True)
class Place:
    """The file and number of a line; the file is empty for a stream."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file} line {self.number}" if self.file else f"line {self.number}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem, and the line at which it was found; None if it is after the last one."""

    place: Place | None
    what: str
    order: int


@dataclass(frozen=True, slots=True)
class Report:
    """The result of verifying audit lines."""

    lines: int
    chains: int
    begins_at: str | None
    ends_at: str | None
    problems: Sequence[Problem]
    """The problems in the order of the lines."""
    notes: Sequence[str]
    """The parts that could not be verified, although nothing may be wrong."""

    def json(self) -> dict[str, Any]:
        """Return the report as it is shown, with at most twenty problems and notes."""
        shown = [(one.place, one.what) for one in self.problems[:MOST_TOLD]]
        return {
            "whole": not self.problems,
            "lines": self.lines,
            "chains": self.chains,
            "begins_at": self.begins_at,
            "ends_at": self.ends_at,
            "problems": [
                {"file": place and place.file, "line": place and place.number, "what": what}
                for place, what in shown
            ],
            "more_problems": max(0, len(self.problems) - MOST_TOLD),
            "notes": list(self.notes[:MOST_TOLD]),
        }


@dataclass(slots=True)
class _State:
    """A chain up to the last line that was read."""

    macs: Macs
    head: Head
    followed: bool = False
    """True if a later start has named its head, so that no more lines may follow."""


@dataclass(slots=True)
class Verifier:
    """Verifies lines that are fed to it in order, and then returns a report."""

    key_of: KeyOf
    whole: bool = True
    """True if all lines should be there, except those in files deleted because of their age."""
    mixed: bool = False
    """True if other lines may be in between, as in the journal."""
    _chains: dict[str, _State] = field(default_factory=dict)
    _problems: list[Problem] = field(default_factory=list)
    _missing: list[tuple[Place, int, Head]] = field(default_factory=list)
    """Lines before which others are missing, their numbers, and the head of the last missing line."""
    _expired: set[tuple[str, int]] = field(default_factory=set)
    _notes: list[str] = field(default_factory=list)
    _lines: int = 0
    _first: Line | None = None
    _last: Line | None = None

    def feed(self, place: Place, raw: bytes) -> None:
        """Verify the next line."""
        line = parse_line(raw)
        if line is None:
            if not self.mixed:
                self._wrong(place, "is not a line of the audit")
            return
        self._lines += 1
        self._first, self._last = self._first or line, line
        state = self._chains.get(line.head.chain)
        if state is None:
            self._begin_chain(place, line)
        else:
            self._continue_chain(place, line, state)

    def finish(self, heads: Sequence[Head]) -> Report:
        """Return the report; `heads` are lines that the broker is known to have written."""
        for place, order, head in self._missing:
            if (head.chain, head.n) in self._expired:
                self._notes.append(f"what was before {place} was deleted by age")
            elif self.whole:
                what = f"has lost what was before it: chain {head.chain} up to line {head.n}"
                self._problems.append(Problem(place, what, order))
            else:
                self._notes.append(f"what was before {place} is not here")
        for head in heads:
            state = self._chains.get(head.chain)
            reached = -1 if state is None else state.head.n
            if reached < head.n:
                lost = f"{_counted(head.n - reached)} are missing at the end"
                what = f"{lost}: chain {head.chain} went on to line {head.n}"
                self._problems.append(Problem(None, what, self._lines + 1))
        return Report(
            lines=self._lines,
            chains=len(self._chains),
            begins_at=_at(self._first),
            ends_at=_at(self._last),
            problems=sorted(self._problems, key=lambda problem: problem.order),
            notes=self._notes,
        )

    def _begin_chain(self, place: Place, line: Line) -> None:
        """Verify the first line of a chain, or the first one present."""
        state = _State(Macs(self.key_of(line.head.chain)), line.head)
        self._chains[line.head.chain] = state
        members = _members(line)
        previous = "" if line.head.n == 0 else members.get("previous")
        if not isinstance(previous, str):
            if self.whole:
                self._wrong(place, "has lost what was before it")
            else:
                self._notes.append(
                    f"{place} is the first of its chain that is there, so it cannot be verified itself"
                )
        elif not hmac.compare_digest(state.macs.of(previous, line.text), line.head.mac):
            self._wrong(place, "was changed")
        elif line.head.n > 0:
            self._missing.append((place, self._lines, Head(line.head.chain, line.head.n - 1, previous)))
        else:
            # A start names the heads that it follows, and these must have been reached.
            for named in members.get("follows", ()):
                head = Head(**named)
                before = self._chains.get(head.chain)
                if before is None:
                    self._missing.append((place, self._lines, head))
                    continue
                if before.head.n < head.n:
                    lost = _counted(head.n - before.head.n)
                    self._wrong(place, f"has lost {lost} before it: the end of a start")
                before.followed = True

    def _continue_chain(self, place: Place, line: Line, state: _State) -> None:
        expected = state.head.n + 1
        if line.head.n < expected:
            self._wrong(place, "is there twice, or in the wrong order")
            return
        if state.followed:
            self._wrong(place, "comes after the start that follows its chain")
        if line.head.n > expected:
            self._wrong(place, f"has lost {_counted(line.head.n - expected)} before it")
        elif not hmac.compare_digest(state.macs.of(state.head.mac, line.text), line.head.mac):
            self._wrong(place, "was changed")
        elif b'"action":"audit.expired"' in line.text:
            # Checked as text, because parsing every line would take longer than verifying it.
            last = _members(line).get("last")
            if isinstance(last, dict):
                self._expired.add((last["chain"], last["n"]))
        state.head = line.head

    def _wrong(self, place: Place, what: str) -> None:
        self._problems.append(Problem(place, what, self._lines))


def _members(line: Line) -> dict[str, Any]:
    try:
        members = json.loads(line.text + b"}")
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def _at(line: Line | None) -> str | None:
    """Return the time of a line."""
    if line is None:
        return None
    return line.text.partition(b'"at":"')[2].partition(b'"')[0].decode(errors="replace")


def _counted(lines: int) -> str:
    return "1 line" if lines == 1 else f"{lines} lines"


async def read_files(verifier: Verifier, files: Sequence[AuditFile]) -> None:
    """Verify every line of the files, reading them in a thread; raises OSError."""

    async def blocks_of(file: AuditFile) -> AsyncIterator[bytes]:
        blocks = file.blocks()
        while block := await asyncio.to_thread(next, blocks, b""):
            yield block

    for file in files:
        await read_stream(verifier, blocks_of(file), file.name)


async def read_stream(verifier: Verifier, blocks: AsyncIterator[bytes], file: str = "") -> None:
    """Verify every line of a stream or of one file; a last line without a newline counts too."""
    number, rest = 0, b""

    def feed(block: bytes) -> None:
        nonlocal number, rest
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            verifier.feed(Place(file, number), line)

    async for block in blocks:
        await asyncio.to_thread(feed, block)
    if rest:
        feed(b"\n")


def last_generations(files: Sequence[Path], key_of: KeyOf, *, after: str) -> Mapping[str, int]:
    """Return the generation of the last issued token of the accounts that the audit named last.

    Only verified lines count that are later than `after` and than the last adoption. `files` are newest first. Raises
    OSError.
    """
    found: dict[str, int] = {}
    left = READ_BACK
    for path in files:
        lines = last_lines(path, left)
        for before, line in reversed(list(pairwise([b"", *lines]))):
            told = HANDED_OUT.search(line)
            if ADOPTED in line and _verifies(before, line, key_of):
                return found
            if told is None or told[1].decode() <= after:
                continue
            name, generation = told[2].decode(), int(told[3])
            if found.get(name, 0) < generation and _verifies(before, line, key_of):
                found[name] = generation
            if len(found) == ACCOUNTS_READ:
                return found
        left -= sum(map(len, lines))
        if left <= 0:
            break
    return found


def _verifies(before: bytes, line: bytes, key_of: KeyOf) -> bool:
    first, second = parse_line(before), parse_line(line)
    if first is None or second is None or first.head.chain != second.head.chain:
        return False
    return Macs(key_of(second.head.chain)).of(first.head.mac, second.text) == second.head.mac
