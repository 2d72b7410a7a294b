"""The HTTP of `broker backup`, on the admin socket alone."""

import asyncio

import structlog
from aiohttp import web

from broker.admin.backup import BackupDesk, chunks
from broker.web import CALLER, REQUEST_ID

log = structlog.get_logger()
STUCK_AFTER = 60.0
"""Seconds for which a client may read nothing."""


class BackupRoutes:
    """The store's bytes, for operators: everything secret in them is sealed."""

    def __init__(self, *, desk: BackupDesk) -> None:
        self._desk = desk

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/backup", self.backup)]

    async def backup(self, request: web.Request) -> web.StreamResponse:
        async with self._desk.backup(request[CALLER], request_id=request[REQUEST_ID]) as path:
            response = web.StreamResponse(
                headers={"Content-Type": "application/vnd.sqlite3", "Cache-Control": "no-store"}
            )
            response.content_length = path.stat().st_size
            await response.prepare(request)
            async for chunk in chunks(path):
                try:
                    async with asyncio.timeout(STUCK_AFTER):
                        await response.write(chunk)
                except TimeoutError:
                    # The copy takes room beside the store for as long as somebody reads it.
                    log.warning("backup.not_read", seconds=STUCK_AFTER)
                    if request.transport is not None:
                        request.transport.abort()
                    break
        return response
