"""Lives that nobody would think up: short in every run, long under `make proof`."""

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
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


def test_every_promise_holds_in_every_life() -> None:
    """The same lives in each run."""
    run_state_machine_as_test(Lifetimes, settings=SHORT)  # type: ignore[no-untyped-call]
    assert True
