"""A line between the broker and a provider that can lose answers."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class LossyLine:
    """Forwards TCP to `port`; while `losing`, the answer is read to its end and thrown away."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.losing = False
        self.lost = 0
        self._near_port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._near_port}"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def connect(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._near_port)
        self._near_port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse connections until `connect`."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def _carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, forth = await asyncio.open_connection("127.0.0.1", self._port)
        asking = asyncio.create_task(_copy(near, forth))
        # Each request has a connection of its own, so the answer ends with it.
        answer = await far.read()
        if self.losing:
            self.lost += 1
        else:
            back.write(answer)
            with suppress(OSError):
                await back.drain()
        asking.cancel()
        forth.close()
        back.close()


async def _copy(near: asyncio.StreamReader, forth: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await near.read(65536):
            forth.write(chunk)
            await forth.drain()
