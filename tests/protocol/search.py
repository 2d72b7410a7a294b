"""Breadth-first search: the shortest way to a broken promise, or how many states there are without one."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tests.protocol.moves import moves
from tests.protocol.state import State
from tests.protocol.variants import Variant


@dataclass(frozen=True, slots=True)
class Found:
    """How a search ended."""

    states: int
    broken: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.states} states; {self.broken or 'nothing is broken'}", *self.trace])


def search(start: State, variant: Variant, promise: Callable[[State], str]) -> Found:
    """Every state that can be reached; `promise` says what one of them breaks, or nothing."""
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if broken := state.broken or promise(state):
            return Found(len(came_from), broken, _trace(came_from, state))
        for name, reached in moves(state, variant):
            if reached not in came_from:
                came_from[reached] = (state, name)
                waiting.append(reached)
    return Found(len(came_from))


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    names = []
    while (step := came_from[state]) is not None:
        state, name = step
        names.append(name)
    return tuple(reversed(names))
