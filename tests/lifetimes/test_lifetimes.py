"""Lives that nobody would think up: short in every run, long under `make proof`."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.lifetimes.machine import Lifetimes

SHORT = settings(
    max_examples=14,
    stateful_step_count=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(SHORT, max_examples=400, stateful_step_count=50, derandomize=False, print_blob=True)


class Counted(Lifetimes):
    """Every life that came to its end with every promise kept."""

    lives = 0

    def teardown(self) -> None:
        super().teardown()
        Counted.lives += 1


@pytest.mark.parametrize("plan", [SHORT, pytest.param(LONG, marks=pytest.mark.proof)], ids=["short", "long"])
def test_every_promise_holds_in_every_life(plan: settings) -> None:
    """The short ones are the same in each run; of a long one that fails the seed is printed."""
    before = Counted.lives

    run_state_machine_as_test(Counted, settings=plan)

    print(Counted.lives - before, "lives")
    assert Counted.lives - before >= plan.max_examples / 2
