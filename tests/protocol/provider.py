"""The provider: what each mode of rotation does with a refresh token."""

from broker.sandbox.faults import Mode
from tests.protocol.state import NONE, Says, State, Worth

GRACE = frozenset({Mode.GRACE_SAME, Mode.GRACE_SIBLING, Mode.GRACE_LATEST})
KEEPING = frozenset({Mode.NONE, Mode.ON_USE}) | GRACE
"""Modes in which nothing may be lost."""


def process(state: State, number: int) -> State:
    """The provider handles a request: it rotates, or refuses."""
    request = state.wire[number]
    tokens, gives = _exchange(state.mode, state.tokens, request.token)
    says = Says.REFUSED if gives == NONE else Says.GRANTED
    return answer(state._replace(tokens=tokens), number, says, gives)


def answer(state: State, number: int, says: Says, gives: int = NONE) -> State:
    """Its answer is on the way back."""
    answered = state.wire[number]._replace(says=says, gives=gives)
    return state._replace(wire=(*state.wire[:number], answered, *state.wire[number + 1 :]))


def use(state: State) -> State:
    """A caller uses the newest access token that was released; on-use rotation ends the older grants with that."""
    tokens = tuple(
        Worth.DEAD if number < state.released else worth for number, worth in enumerate(state.tokens)
    )
    return state._replace(tokens=tokens)


def end_grace(state: State) -> State:
    """What was superseded works no longer."""
    tokens = tuple(Worth.DEAD if worth is Worth.OLD else worth for worth in state.tokens)
    return state._replace(tokens=tokens)


def _exchange(mode: Mode, tokens: tuple[Worth, ...], token: int) -> tuple[tuple[Worth, ...], int]:
    worth = tokens[token]
    if worth is Worth.DEAD:
        whole_family = mode is Mode.FAMILY
        return ((Worth.DEAD,) * len(tokens) if whole_family else tokens), NONE
    if mode is Mode.NONE:
        return tokens, token
    if mode is Mode.GRACE_SAME and worth is Worth.OLD:
        return tokens, max(number for number, other in enumerate(tokens) if other is Worth.GOOD)
    before = list(tokens)
    if worth is Worth.OLD and mode is Mode.GRACE_LATEST:
        before = [Worth.DEAD if other is Worth.GOOD else other for other in before]
    before[token] = Worth.DEAD if mode in (Mode.STRICT, Mode.FAMILY) else Worth.OLD
    return (*before, Worth.GOOD), len(tokens)
