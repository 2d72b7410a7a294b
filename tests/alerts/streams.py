"""A client of server-sent events, as strict as a browser's (WHATWG HTML, 9.2.6)."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.house import House


@dataclass(slots=True)
class Stream:
    """What came so far."""

    house: House
    response: aiohttp.ClientResponse
    last_id: str = ""
    messages: list[tuple[str, Any]] = field(default_factory=list)
    comments: int = 0
    ended: bool = False
    _rest: bytes = b""

    @property
    def told(self) -> list[tuple[str, str | None]]:
        """Event and account of each message."""
        return [(kind, data.get("account")) for kind, data in self.messages]

    async def beat(self, seconds: float = 1.0) -> None:
        """Let time pass on the broker's clock, and read what that brought."""
        await self.house.clock.settle()
        self.house.clock.advance(seconds)
        await self.house.clock.settle()
        while chunk := self.response.content.read_nowait():
            self._take(chunk)
        self.ended = self.response.content.at_eof()

    def _take(self, chunk: bytes) -> None:
        *blocks, self._rest = (self._rest + chunk).split(b"\n\n")
        for block in blocks:
            self._dispatch(block.decode())

    def _dispatch(self, block: str) -> None:
        kind, data = "message", []
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            match name:
                case "id":
                    self.last_id = value
                case "event":
                    kind = value
                case "data":
                    data.append(value)
                case "":
                    self.comments += 1
                case "retry":
                    assert value.isdigit()
                case _:
                    raise AssertionError(f"no field of an event stream: {line!r}")
        if data:
            self.messages.append((kind, json.loads("\n".join(data))))


@asynccontextmanager
async def open_stream(
    house: House, query: str = "", *, key: str | None = None, last_id: str | None = None
) -> AsyncIterator[Stream]:
    """A stream of the internal listener that has begun."""
    headers = {"Authorization": f"Bearer {house.key if key is None else key}"}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    async with house.session.get(f"{house.internal}/events{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield Stream(house, response)
