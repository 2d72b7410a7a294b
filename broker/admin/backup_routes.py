"""The HTTP of `broker backup`, on the admin socket alone."""

from aiohttp import web

from broker.admin.backup import BackupDesk, chunks
from broker.web import CALLER, REQUEST_ID


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
                await response.write(chunk)
        return response
