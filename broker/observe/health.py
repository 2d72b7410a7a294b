"""The broker's current problems, in words that an operator can act on."""

from collections.abc import Callable, Collection

import structlog

log = structlog.get_logger()


class Health:
    """The current problems. The part that finds a problem raises it, and clears it when it is over."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}
        self._listeners: list[Callable[[str, bool], None]] = []
        self.starting = True
        self.stopping = False

    def raise_problem(self, key: str, sentence: str) -> None:
        """Record a problem under a fixed key. Listeners are notified once."""
        fresh = key not in self._problems
        self._problems[key] = sentence
        if fresh:
            log.warning("broker.degraded", problem=key, detail=sentence)
            self._tell(key, True)

    def clear(self, key: str) -> None:
        """Record that a problem is over, if there was one."""
        if self._problems.pop(key, None) is not None:
            log.info("broker.recovered", problem=key)
            self._tell(key, False)

    def set_back(self, names: Collection[str]) -> None:
        """Record which accounts have rows older than what this process has seen. No names: the problem is over."""
        if not names:
            self.clear("store_set_back")
            return
        self.raise_problem(
            "store_set_back",
            f"the database holds an older generation of {min(names)!r} than before ({len(names)} in all), as after"
            " a failover; where its provider replaces refresh tokens, connect it again",
        )

    def listen(self, listener: Callable[[str, bool], None]) -> None:
        """Call `listener(key, has_begun)` when a problem begins or ends."""
        self._listeners.append(listener)

    @property
    def problems(self) -> list[str]:
        """The sentences of the current problems."""
        return list(self._problems.values())

    @property
    def by_key(self) -> dict[str, str]:
        """The sentences of the current problems by their fixed keys."""
        return dict(self._problems)

    def _tell(self, key: str, has_begun: bool) -> None:
        for listener in self._listeners:
            listener(key, has_begun)
