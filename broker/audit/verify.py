"""Verifies the chains of the audit's lines, from files or a stream, and reads what they say of accounts."""

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
    """The place of a line, as people find it."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file} line {self.number}" if self.file else f"line {self.number}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem, and the line from which on it was found; None: behind the last one."""

    place: Place | None
    what: str
    order: int

    def json(self) -> dict[str, Any]:
        place = self.place
        return {"file": place and place.file, "line": place and place.number, "what": self.what}


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verification."""

    lines: int
    chains: int
    begins_at: str | None
    ends_at: str | None
    problems: Sequence[Problem]
    """The problems in the order of the lines."""
    notes: Sequence[str]
    """Things that could not be verified, and why that may be in order."""

    def json(self) -> dict[str, Any]:
        return {
            "whole": not self.problems,
            "lines": self.lines,
            "chains": self.chains,
            "begins_at": self.begins_at,
            "ends_at": self.ends_at,
            "problems": [problem.json() for problem in self.problems[:MOST_TOLD]],
            "more_problems": max(0, len(self.problems) - MOST_TOLD),
            "notes": list(self.notes[:MOST_TOLD]),
        }


@dataclass(slots=True)
class _State:
    """A chain, as far as it was followed."""

    macs: Macs
    head: Head
    followed: bool = False
    """Whether another start has named its head, so that nothing may come any more."""


@dataclass(slots=True)
class Verifier:
    """Feed it every line in order, then ask for the report."""

    key_of: KeyOf
    whole: bool = True
    """Whether the lines should begin at the beginning, but for what was deleted by age."""
    mixed: bool = False
    """Whether lines of others may stand between, as in the journal."""
    _chains: dict[str, _State] = field(default_factory=dict)
    _problems: list[Problem] = field(default_factory=list)
    _missing: list[tuple[Place, int, Head]] = field(default_factory=list)
    """Before which lines something is missing, their numbers, and the last missing line as its successor names it."""
    _expired: set[tuple[str, int]] = field(default_factory=set)
    _notes: list[str] = field(default_factory=list)
    _lines: int = 0
    _first: Line | None = None
    _last: Line | None = None

    def feed(self, place: Place, raw: bytes) -> None:
        """The next line."""
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
        """Return the report. `heads` are lines that the broker knows to have written."""
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
        """Read the first line of a chain, or the first that is there."""
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
        elif not self._is_right(state, previous, line):
            self._wrong(place, "was changed")
        elif line.head.n > 0:
            self._missing.append((place, self._lines, Head(line.head.chain, line.head.n - 1, previous)))
        else:
            # A start names the heads before it: they must have been reached.
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
        """Read the next line of a chain."""
        expected = state.head.n + 1
        if line.head.n < expected:
            self._wrong(place, "is there twice, or in the wrong order")
            return
        if state.followed:
            self._wrong(place, "comes after the start that follows its chain")
        if line.head.n > expected:
            self._wrong(place, f"has lost {_counted(line.head.n - expected)} before it")
        elif not self._is_right(state, state.head.mac, line):
            self._wrong(place, "was changed")
        elif b'"action":"audit.expired"' in line.text:
            # Parsing every line would cost more than verifying it.
            last = _members(line).get("last")
            if isinstance(last, dict):
                self._expired.add((last["chain"], last["n"]))
        state.head = line.head

    def _is_right(self, state: _State, previous: str, line: Line) -> bool:
        return hmac.compare_digest(state.macs.of(previous, line.text), line.head.mac)

    def _wrong(self, place: Place, what: str) -> None:
        self._problems.append(Problem(place, what, self._lines))


def _members(line: Line) -> dict[str, Any]:
    try:
        members = json.loads(line.text + b"}")
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def _at(line: Line | None) -> str | None:
    """The moment of a line: the member that every line begins with."""
    if line is None:
        return None
    return line.text.partition(b'"at":"')[2].partition(b'"')[0].decode(errors="replace")


def _counted(lines: int) -> str:
    return "1 line" if lines == 1 else f"{lines} lines"


async def read_files(verifier: Verifier, files: Sequence[AuditFile]) -> None:
    """Read every line of the files, a block at a time, so that tokens are served between; raises OSError."""
    for file in files:
        await read_stream(verifier, _blocks(file), file.name)


async def _blocks(file: AuditFile) -> AsyncIterator[bytes]:
    blocks = file.blocks()
    while block := await asyncio.to_thread(next, blocks, b""):
        yield block


async def read_stream(verifier: Verifier, blocks: AsyncIterator[bytes], file: str = "") -> None:
    """Read every line of a stream, or of one file; what lacks its newline at the end is a line too."""
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
    """Return the generation of which the audit last handed out a token, of the accounts that it named last.

    Only lines that verify count, and only those later than `after` and than the last adoption. `files`: newest first.
    Raises OSError.
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
