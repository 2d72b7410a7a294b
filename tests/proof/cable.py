"""The cable between one broker and the database: it can be pulled, and then nobody hears anything, not even an end."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class Cable:
    """Forwards TCP to `port` from a port of its own."""

    def __init__(self, port: int) -> None:
        self._far_port = port
        self.port = 0
        self._is_cut = False
        self._mended = asyncio.Event()
        self._mended.set()
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()

    def pull(self) -> None:
        """What is sent from now on arrives when it is mended, or never."""
        self._mended.clear()

    def cut(self) -> None:
        """Every connection ends at once, and none is made until it is mended."""
        self._is_cut = True
        for end in [*self._ends]:
            end.transport.abort()

    def mend(self) -> None:
        self._is_cut = False
        self._mended.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            end.transport.abort()

    async def _carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        await self._mended.wait()
        if self._is_cut:
            back.transport.abort()
            return
        try:
            far, forth = await asyncio.open_connection("127.0.0.1", self._far_port)
        except OSError:
            back.transport.abort()
            return
        self._ends |= {back, forth}
        await asyncio.wait(
            [asyncio.create_task(self._copy(near, forth)), asyncio.create_task(self._copy(far, back))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for end in (back, forth):
            end.transport.abort()
        self._ends -= {back, forth}

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                await self._mended.wait()
                target.write(chunk)
                await target.drain()
        await self._mended.wait()
