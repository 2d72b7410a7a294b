"""Who has to know that an account's row changed: memories that hold it, and whoever waits for another replica."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Changes:
    """Tells whoever listens the name of each account whose row changed, once the change is durable."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[str], None]] = []
        self._forgetful: list[Callable[[], None]] = []
        self._watched: dict[str, list[asyncio.Event]] = {}
        self.are_heard: Callable[[], bool] = _always
        """Whether changes by other brokers on the database are heard just now."""

    def listen(self, listener: Callable[[str], None], missed: Callable[[], None] | None = None) -> None:
        """`missed` is called when anything may have changed unheard."""
        self._listeners.append(listener)
        if missed is not None:
            self._forgetful.append(missed)

    def publish(self, name: str) -> None:
        for listener in self._listeners:
            listener(name)
        for event in self._watched.get(name, ()):
            event.set()

    def missed(self) -> None:
        """Changes by others were not heard for a while; from now on they are."""
        for forget in self._forgetful:
            forget()
        for events in self._watched.values():
            for event in events:
                event.set()

    @contextmanager
    def watch(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set with every change of that account from here on."""
        event = asyncio.Event()
        self._watched.setdefault(name, []).append(event)
        try:
            yield event
        finally:
            self._watched[name].remove(event)
            if not self._watched[name]:
                del self._watched[name]


def _always() -> bool:
    return True
