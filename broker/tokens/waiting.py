"""Who waits for news of an account: one future for all who wait for the same one."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from broker.clock import Clock, within
from broker.errors import Overloaded

MOST = 20_000


class _News:
    """What those who wait for one account share."""

    __slots__ = ("future", "waiters")

    def __init__(self) -> None:
        self.waiters = 0
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(self) -> None:
        """Wake everybody; who goes on waiting waits for the next."""
        self.future.set_result(None)
        self.future = asyncio.get_running_loop().create_future()


class Waiters:
    """Told by the store's change feed; costs nothing for accounts that nobody waits for."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._by_name: dict[str, _News] = {}
        self._count = 0
        self.stopping = False

    def __len__(self) -> int:
        return self._count

    def heard(self, name: str) -> None:
        """The row of this name has changed."""
        if (news := self._by_name.get(name)) is not None:
            news.tell()

    def missed(self) -> None:
        """Any row may have changed unheard."""
        for news in list(self._by_name.values()):
            news.tell()

    def stop(self) -> None:
        """End all waiting, now and from now on."""
        self.stopping = True
        for news in list(self._by_name.values()):
            news.tell()

    @contextmanager
    def on(self, name: str) -> Iterator["Waiting"]:
        """Wait for news of one account; what happens from here on is not missed. Raises Overloaded."""
        if self._count >= MOST:
            raise Overloaded("too many wait for news already; ask without wait", retry_after=5)
        news = self._by_name.get(name) or _News()
        self._by_name[name] = news
        news.waiters += 1
        self._count += 1
        try:
            yield Waiting(news, self._clock)
        finally:
            self._count -= 1
            news.waiters -= 1
            if not news.waiters:
                del self._by_name[name]


class Waiting:
    """One who waits."""

    __slots__ = ("_clock", "_news", "_seen")

    def __init__(self, news: _News, clock: Clock) -> None:
        self._news, self._clock = news, clock
        self._seen = news.future

    async def for_news(self, seconds: float) -> None:
        """Return at the next news since the last time, or after so many seconds."""
        await within(self._clock, seconds, self._seen)
        self._seen = self._news.future
