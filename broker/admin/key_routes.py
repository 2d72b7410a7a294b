"""The HTTP of `broker keys`, on the admin socket alone."""

from aiohttp import web

from broker.admin.keys import KeyDesk, step_json
from broker.web import CALLER, REQUEST_ID, answer, check_query, read_object


class KeyRoutes:
    """Data keys; never a key itself."""

    def __init__(self, *, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/keys", self.keys),
            web.post("/keys", self.new),
            web.post("/keys/rewrap", self.rewrap),
            web.delete("/keys/{kid}", self.drop),
        ]

    async def keys(self, request: web.Request) -> web.StreamResponse:
        check_query(request)
        keys = await self._desk.keys(request[CALLER], request_id=request[REQUEST_ID])
        return answer({"keys": keys})

    async def new(self, request: web.Request) -> web.StreamResponse:
        await read_object(request, allowed={})
        key = await self._desk.new(request[CALLER], request_id=request[REQUEST_ID])
        return answer(key, status=201)

    async def rewrap(self, request: web.Request) -> web.StreamResponse:
        """One step; the answer's `cursor` is for the next one, null at the end."""
        body = await read_object(request, allowed={"cursor": str})
        step = await self._desk.rewrap(request[CALLER], body.get("cursor"), request_id=request[REQUEST_ID])
        return answer(step_json(step))

    async def drop(self, request: web.Request) -> web.StreamResponse:
        kid = request.match_info["kid"]
        return answer(await self._desk.drop(request[CALLER], kid, request_id=request[REQUEST_ID]))
