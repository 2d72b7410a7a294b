"""The protocol keeps its promises in every interleaving; without any one of its rules it would not."""

from dataclasses import replace
from pathlib import Path

import pytest

from broker.sandbox.faults import Mode
from broker.tokens.schedule import Step
from tests.house import open_house
from tests.protocol.moves import moves
from tests.protocol.promises import promise
from tests.protocol.search import Found, search
from tests.protocol.state import Broker, Budget, State
from tests.protocol.variants import RIGHT, Variant

ALONE = Budget(renewals=2, crashes=1, drops=1, false_words=1, store_failures=1)
LONGER = Budget(renewals=3, crashes=2, drops=2, false_words=1, store_failures=1)
TWO = Budget(renewals=2, crashes=0, drops=0, false_words=0, stalls=1)
TWO_LONGER = Budget(renewals=2, crashes=1, drops=1, false_words=1, store_failures=1, stalls=1)
HARDEST = (Mode.GRACE_LATEST, Mode.STRICT)
"""A replay is answered with something else; a lost answer loses the account."""


def explore(mode: Mode, budget: Budget, variant: Variant = RIGHT) -> Found:
    """One broker, or two where leases end while their holder stands still."""
    brokers = (Broker(),) * (2 if budget.stalls else 1)
    return search(State(mode, brokers=brokers, budget=budget), variant, promise)


@pytest.mark.parametrize(
    "mode", [mode if mode in HARDEST else pytest.param(mode, marks=pytest.mark.slow) for mode in Mode]
)
@pytest.mark.parametrize("budget", [ALONE, TWO], ids=["one broker", "two brokers"])
def test_protocol_keeps_its_promises(mode: Mode, budget: Budget) -> None:
    """Whatever comes in between, in each mode of rotation."""
    found = explore(mode, budget)

    assert "" == found.broken, found
    assert found.states > 50


@pytest.mark.proof
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("budget", [LONGER, TWO_LONGER], ids=["one broker", "two brokers"])
def test_protocol_keeps_its_promises_for_longer(mode: Mode, budget: Budget) -> None:
    """More renewals, deaths and lost messages; how many states there were is printed."""
    found = explore(mode, budget)

    print(mode, found)
    assert "" == found.broken, found


WRONG = {
    "release before commit": (replace(RIGHT, commit_before_release=False), Mode.ON_USE, ALONE, "I1"),
    "dead on first refusal": (replace(RIGHT, confirms_refusals=False), Mode.NONE, ALONE, "I2"),
    "a spare's first refusal believed": (replace(RIGHT, confirms_spares=False), Mode.STRICT, ALONE, "I8"),
    "no compare-and-set": (replace(RIGHT, compares_generation=False), Mode.GRACE_LATEST, TWO, "I3"),
    "retry without quarantine": (replace(RIGHT, quarantines=False), Mode.GRACE_LATEST, ALONE, "I4"),
    "quarantine longer than grace": (
        *(replace(RIGHT, quarantine_within_grace=False), Mode.GRACE_SAME, ALONE, "an account is lost"),
    ),
    "intent after POST": (replace(RIGHT, intent_before_post=False), Mode.STRICT, ALONE, "I9"),
    "spool skipped": (replace(RIGHT, spools=False), Mode.STRICT, ALONE, "C13"),
    "lease shorter than the request": (
        *(replace(RIGHT, lease_outlives_request=False), Mode.GRACE_LATEST, TWO, "I4"),
    ),
    "lease not read again": (replace(RIGHT, rereads_lease=False), Mode.STRICT, TWO, "I9"),
    "invalid_client kills": (replace(RIGHT, client_refusal_spares=False), Mode.NONE, ALONE, "I2"),
    "lost answer taken for a refusal": (
        replace(RIGHT, ambiguity_is_no_refusal=False),
        Mode.NONE,
        ALONE,
        "I4",
    ),
    "family's old token before its salvage": (
        *(replace(RIGHT, tries_salvage_first=False), Mode.FAMILY, ALONE, "I8"),
    ),
    "loser's token thrown away": (replace(RIGHT, keeps_losers=False), Mode.GRACE_SIBLING, TWO, "I5"),
}


@pytest.mark.parametrize(("variant", "mode", "budget", "invariant"), WRONG.values(), ids=WRONG)
def test_each_rule_is_needed(variant: Variant, mode: Mode, budget: Budget, invariant: str) -> None:
    """Without it a promise breaks, and the shortest way to that is told."""
    found = explore(mode, budget, variant)

    assert found.broken.startswith(invariant), found
    assert found.trace


def steps_of(trace: tuple[str, ...]) -> list[Step]:
    return [step for name in trace for step in Step if step in name]


def to_a_new_token(state: State) -> str:
    """Not a promise: the way to the first renewal that succeeds."""
    return "renewed" if state.released else ""


async def test_code_takes_the_steps_of_the_model(tmp_path: Path) -> None:
    """A renewal that succeeds, in the model and in the broker: the same steps in the same order."""
    seen: list[Step] = []
    async with open_house(tmp_path / "run", watch=seen.append) as house:
        await house.connect()
        await house.post("/token/acme/refresh")

    modelled = search(State(Mode.STRICT), RIGHT, to_a_new_token)

    assert steps_of(modelled.trace) == seen


def test_model_names_every_step_of_the_code() -> None:
    """A step that is new in the code has to be thought of here as well."""
    state, named = [State(Mode.STRICT, budget=ALONE)], set[Step]()
    known = set(state)
    while state:
        for name, reached in moves(state.pop(), RIGHT):
            named.update(steps_of((name,)))
            if reached not in known:
                known.add(reached)
                state.append(reached)

    assert set(Step) == named
