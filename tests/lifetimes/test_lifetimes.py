"""Lives that nobody would think up: a few of them in every run, a thousand under `make proof`."""

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.lifetimes.asking import Tally
from tests.lifetimes.machine import Lifetimes

pytestmark = pytest.mark.slow

SHORT = settings(
    max_examples=8,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(
    SHORT, max_examples=250, stateful_step_count=40, derandomize=False, database=None, print_blob=True
)


def live(chosen: settings, number: int | None = None) -> Tally:
    """Run the machine; what its lives came to. Raises AssertionError with the steps that broke a promise."""

    class Counted(Lifetimes):
        tally = Tally()

    run_state_machine_as_test(Counted if number is None else seed(number)(Counted), settings=chosen)
    print(f"seed {number}: {Counted.tally}")
    return Counted.tally


def test_every_promise_holds_in_some_lives() -> None:
    """The same lives in each run, and not empty ones: renewals, lost answers, dead brokers and dead grants."""
    tally = live(SHORT)

    assert min(tally.renewals, tally.answers_lost, tally.brokers_killed, tally.grants_dead) > 0, tally


@pytest.mark.proof
@pytest.mark.parametrize("number", range(4))
def test_every_promise_holds_in_a_thousand_lives(number: int) -> None:
    """250 lives of 40 steps for each seed, which is in the test's name."""
    tally = live(LONG, number)

    assert min(tally.renewals, tally.answers_lost, tally.brokers_killed, tally.grants_dead) > 100, tally
