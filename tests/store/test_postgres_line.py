"""The line to the server: what is not known to be heard is not heard."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from broker.store.postgres_connection import Connection, Line


class Wire:
    """A connection that stands until it is cut, and asks the line at every statement whether it hears."""

    def __init__(self, asked: Callable[[], None]) -> None:
        self._asked = asked
        self._is_closed = False
        self._terminated: Callable[[object], None] | None = None

    def add_termination_listener(self, listener: Callable[[object], None]) -> None:
        self._terminated = listener

    def remove_termination_listener(self, _: object) -> None:
        self._terminated = None

    async def add_listener(self, *_: Any) -> None:
        self._asked()

    async def fetchval(self, *_: Any) -> bool:
        await asyncio.sleep(0)
        self._asked()
        return True

    def is_closed(self) -> bool:
        return self._is_closed

    def terminate(self) -> None:
        self._is_closed = True

    def cut(self) -> None:
        self._is_closed = True
        if self._terminated:
            self._terminated(self)


async def test_nothing_is_heard_before_everybody_knows_that_something_may_have_been_missed() -> None:
    """What was remembered before the cut is not served as if it were current, however long the server takes."""
    wires, heard, told = list[Wire](), list[bool](), asyncio.Queue[bool]()

    async def connect() -> Connection:
        wires.append(Wire(lambda: heard.append(line.hears)))
        return cast(Connection, wires[-1])

    def changed(up: bool) -> None:
        heard.append(line.hears)
        told.put_nowait(up)

    line = Line(connect, replica="a")
    line.changed = changed
    await line.begin()
    at_first = line.hears
    wires[0].cut()
    async with asyncio.timeout(60):
        news = [await told.get(), await told.get()]
    afterwards = line.hears
    await line.close()

    assert (True, [False, True], True) == (at_first, news, afterwards)
    assert {False} == {*heard}
