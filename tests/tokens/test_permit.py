"""R9, the mass-death breaker: when the provider's word is taken again."""

from broker.model import Ref
from broker.tokens.permit import ProviderBreaker
from broker.tokens.schedule import Timings

THREE = [Ref(f"acme-{number}", 1, 7) for number in range(3)]
WINDOW = Timings().mass_window


def refuse_all(breaker: ProviderBreaker, now: float) -> list[bool]:
    return [breaker.refused(ref, now) for ref in THREE]


def test_three_refusals_open_it() -> None:
    """The third does, and says so once."""
    breaker = ProviderBreaker(Timings())

    opened = refuse_all(breaker, 1000.0) + refuse_all(breaker, 1001.0)

    assert [False, False, True, False, False, False] == opened
    assert breaker.is_mass_refusing(1001.0)


def test_those_refused_again_and_again_do_not_hold_it_open() -> None:
    """It closes one window after the last newly refused, and stays closed: then they can be declared dead."""
    breaker = ProviderBreaker(Timings())
    refuse_all(breaker, 1000.0)

    for step in range(1, 6):
        refuse_all(breaker, 1000.0 + step * WINDOW / 2)

    assert not breaker.is_mass_refusing(1000.0 + WINDOW * 2.5)


def test_each_newly_refused_holds_it_open_longer() -> None:
    """A fourth grant, late in the window."""
    breaker = ProviderBreaker(Timings())
    refuse_all(breaker, 1000.0)
    breaker.refused(Ref("acme-3", 1, 7), 1000.0 + WINDOW - 1)

    standing = [breaker.is_mass_refusing(1000.0 + WINDOW * factor) for factor in (1.5, 2.1)]

    assert [True, False] == standing


def test_few_among_many_do_not_open_it() -> None:
    """Three of twenty are under a fifth."""
    breaker = ProviderBreaker(Timings())
    for number in range(17):
        breaker.succeeded(Ref(f"well-{number}", 1, 1), 1000.0)

    assert [False] * 3 == refuse_all(breaker, 1000.0)
