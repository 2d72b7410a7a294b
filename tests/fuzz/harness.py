"""Runs one target against generated input for so long, and says how often and what it found."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

LONG = float(os.environ.get("FUZZ_SECONDS", "600"))
"""Seconds for each target in the proof."""
SHORT = 2500
"""Executions of each target in the ordinary suite, the same ones each time."""
ROUND = 1000
VARIANTS = 25
"""Hypothesis makes shapes, slowly; each is then damaged so often, which costs little."""
MOST_FINDINGS = 5
Input = TypeVar("Input")


class TimeUp(BaseException):
    """No Exception: Hypothesis would take it for a finding."""


@dataclass(frozen=True, slots=True)
class Target(Generic[Input]):
    """What is fuzzed: sound and strange inputs, how one is damaged, and what must hold."""

    name: str
    inputs: SearchStrategy[Input]
    damage: Callable[[random.Random, Input], Input]
    check: Callable[[Input], None]
    """Raises where something does not hold."""


@dataclass(slots=True)
class Report:
    """What a run came to."""

    target: str
    executions: int = 0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        findings = f"{len(self.findings)} findings"
        return f"fuzz {self.target}: {self.executions} executions in {self.seconds:.0f} s, {findings}"


def fuzz(target: Target[Input], *, seconds: float = LONG, executions: int | None = None) -> Report:
    """Until the time is up, or so many executions are done; with a number of executions always the same ones.

    A finding is an input for which the check raises, made small by Hypothesis; then the search goes on.
    """
    report, began = Report(target.name), time.perf_counter()
    chance = random.Random(None if executions is None else target.name)

    def go_on() -> None:
        done = report.executions >= executions if executions else time.perf_counter() - began >= seconds
        if done:
            raise TimeUp
        report.executions += 1

    try:
        while len(report.findings) < MOST_FINDINGS:
            _round(report, target, chance.getrandbits(32), go_on)
    except TimeUp:
        pass
    report.seconds = time.perf_counter() - began
    print("", report, *report.findings, sep="\n")
    return report


def _round(report: Report, target: Target[Input], number: int, go_on: Callable[[], None]) -> None:
    failing: list[str] = []

    @seed(number)
    @settings(
        max_examples=ROUND,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs, st.integers(0, 2**32))
    def one(value: Input, way: int) -> None:
        chance = random.Random(way)
        for turn in range(VARIANTS):
            given_value = target.damage(chance, value) if turn else value
            go_on()
            try:
                target.check(given_value)
            except Exception as exc:
                failing[:] = [f"seed {number}: {exc!r} for {given_value!r}"[:1000]]
                raise

    try:
        one()
    except Exception as exc:  # noqa: BLE001 - whatever escapes from a target is what is looked for
        failing = failing or [f"seed {number}: {exc!r}"]
    finally:
        report.findings += failing
