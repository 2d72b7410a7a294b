"""Follows chains through lines, one by one, and says what was done to them. Pure."""

import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.audit.chain import Head, KeyOf, Line, Macs, parse_line

MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class Place:
    """A line, as people find it."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file} line {self.number}" if self.file else f"line {self.number}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and from which line on; None: behind the last one."""

    place: Place | None
    what: str
    order: int

    def json(self) -> dict[str, Any]:
        place = self.place
        return {"file": place and place.file, "line": place and place.number, "what": self.what}


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found."""

    lines: int
    chains: int
    begins_at: str | None
    ends_at: str | None
    problems: Sequence[Problem]
    """In the order of the lines."""
    notes: Sequence[str]
    """What could not be verified, and why that may be in order."""

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
class _Missing:
    """Something before `place` that was not there."""

    place: Place
    order: int
    head: Head
    """The last line of what is missing, as its successor names it."""


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
    _missing: list[_Missing] = field(default_factory=list)
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
            self._meet(place, line)
        else:
            self._go_on(place, line, state)

    def finish(self, heads: Sequence[Head]) -> Report:
        """The report. `heads` are lines that the broker knows to have written."""
        for missing in self._missing:
            self._judge_beginning(missing)
        for head in heads:
            self._judge_end(head)
        return Report(
            lines=self._lines,
            chains=len(self._chains),
            begins_at=_at(self._first),
            ends_at=_at(self._last),
            problems=sorted(self._problems, key=lambda problem: problem.order),
            notes=self._notes,
        )

    def _meet(self, place: Place, line: Line) -> None:
        """The first line of a chain, or the first that is there."""
        state = _State(Macs(self.key_of(line.head.chain)), line.head)
        self._chains[line.head.chain] = state
        members = _members(line)
        previous = "" if line.head.n == 0 else members.get("previous")
        if not isinstance(previous, str):
            self._begin_unverified(place)
        elif not self._is_right(state, previous, line):
            self._wrong(place, "was changed")
        elif line.head.n > 0:
            self._miss(place, Head(line.head.chain, line.head.n - 1, previous))
        else:
            self._follow(place, members)

    def _go_on(self, place: Place, line: Line, state: _State) -> None:
        expected = state.head.n + 1
        if line.head.n < expected:
            self._wrong(place, "is there twice, or in the wrong order")
            return
        if state.followed:
            self._wrong(place, "comes after the start that follows its chain")
        if line.head.n > expected:
            count = line.head.n - expected
            self._wrong(place, f"has lost {_counted(count)} before it")
        elif not self._is_right(state, state.head.mac, line):
            self._wrong(place, "was changed")
        else:
            self._read(line)
        state.head = line.head

    def _read(self, line: Line) -> None:
        """What a verified line says about others."""
        # Parsing every line would cost more than verifying it.
        if b'"action":"audit.expired"' in line.text:
            last = _members(line).get("last")
            if isinstance(last, dict):
                self._expired.add((last["chain"], last["n"]))

    def _follow(self, place: Place, members: dict[str, Any]) -> None:
        """A start names the heads before it: they must have been reached."""
        for named in members.get("follows", ()):
            head = Head(**named)
            state = self._chains.get(head.chain)
            if state is None:
                self._miss(place, head)
                continue
            if state.head.n < head.n:
                self._wrong(
                    place, f"has lost {_counted(head.n - state.head.n)} before it: the end of a start"
                )
            state.followed = True

    def _begin_unverified(self, place: Place) -> None:
        if self.whole:
            self._wrong(place, "has lost what was before it")
        else:
            self._notes.append(
                f"{place} is the first of its chain that is there, so it cannot be verified itself"
            )

    def _miss(self, place: Place, head: Head) -> None:
        self._missing.append(_Missing(place, self._lines, head))

    def _judge_beginning(self, missing: _Missing) -> None:
        if (missing.head.chain, missing.head.n) in self._expired:
            self._notes.append(f"what was before {missing.place} was deleted by age")
        elif self.whole:
            what = f"has lost what was before it: chain {missing.head.chain} up to line {missing.head.n}"
            self._problems.append(Problem(missing.place, what, missing.order))
        else:
            self._notes.append(f"what was before {missing.place} is not here")

    def _judge_end(self, head: Head) -> None:
        state = self._chains.get(head.chain)
        reached = -1 if state is None else state.head.n
        if reached < head.n:
            what = f"{_counted(head.n - reached)} are missing at the end: chain {head.chain} went on to line {head.n}"
            self._problems.append(Problem(None, what, self._lines + 1))

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
