"""The soak runs, and its verdict knows what grows from what does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.__main__ import ROOT
from tests.bench.soak import MIB, Plan, Sample, complaints, line, slope, soak, verdict
from tests.bench.stand import SMOKE, Stand

QUIET = Sample(1.0, 100 * MIB, 40, 10, 20, 5.0, 0.01, 30.0, 3.0, 0)


def hour(**growth: float) -> list[Sample]:
    """A sample a minute; each member named grows by so much from one to the next."""
    return [
        replace(
            QUIET,
            minute=float(minute),
            **{name: getattr(QUIET, name) + minute * by for name, by in growth.items()},
        )
        for minute in range(1, 61)
    ]


@pytest.mark.slow
async def test_accounts_are_renewed_and_asked_for_and_the_process_tells_how_it_fares(tmp_path: Path) -> None:
    """A few moments give every figure, and every answer was a token."""
    told: list[Sample] = []

    samples = await soak(
        Stand(tmp_path, ROOT, SMOKE), Plan(minutes=1 / 30, accounts=60, every=1.0), told.append
    )

    assert samples == told
    assert [1 / 60, 2 / 60] == [one.minute for one in samples]
    assert {0} == {one.failed for one in samples}
    for one in samples:
        assert min(one.rss, one.files, one.threads, one.tasks, one.renewals, one.hot_ms) > 0


@pytest.mark.parametrize(
    ("growth", "told"),
    [
        ({}, "nothing grows"),
        ({"rss": MIB / 60}, "nothing grows"),
        ({"rss": MIB / 6}, "memory grew by 4."),
        ({"files": 1}, "files grew from 56 to 86"),
        ({"tasks": 1}, "tasks grew from 36 to 66"),
        ({"failed": 1}, "answers were not 200"),
        ({"renewals": -0.5}, "nothing was renewed for a while"),
    ],
    ids=["still", "noise", "memory", "files", "tasks", "failures", "renewals"],
)
def test_verdict_names_what_grows(growth: dict[str, float], told: str) -> None:
    """Over the second half; what was filled before does not count."""
    assert told in verdict(hour(**growth))


def test_memory_that_was_filled_at_the_beginning_does_not_grow() -> None:
    """The slope is that of the second half."""
    filling = [replace(one, rss=one.rss * min(one.minute, 30) / 30) for one in hour()]

    assert slope(filling) == pytest.approx(0)
    assert [] == complaints(filling)
    assert slope(hour(rss=MIB / 60)) == pytest.approx(MIB)


@pytest.mark.parametrize("accounts", [60, 1_000, 100_000, 1_000_000])
def test_every_account_is_due_once_in_a_cycle(accounts: int) -> None:
    """However many there are, so many a second are renewed; the first at once."""
    plan = Plan(accounts=accounts)

    window = min(900, plan.life / 3)

    assert plan.life - window == pytest.approx(accounts / plan.renewals, abs=1)


def test_row_of_the_table_is_as_its_head() -> None:
    """As many cells, in units that people read."""
    assert line(QUIET) == "| 1.0 | 100.0 | 40 | 10 | 20 | 5.0 | 1.00 | 30.0 | 3.0 | 0 |\n"
