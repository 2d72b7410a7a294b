"""`/openapi.json` and `/docs`: open to all, since they tell nothing that is not in the README."""

import json
from collections.abc import Callable, Iterable
from functools import partial

from aiohttp import web

from broker.description.document import document, operations
from broker.description.parts import Operation
from broker.pages import Pages
from broker.web import REQUEST_ID, answer, public


class DescriptionRoutes:
    """What one listener says of itself."""

    def __init__(
        self, *, title: str, server: str, providers: Callable[[], Iterable[str]], pages: Pages
    ) -> None:
        self._title, self._server, self._providers, self._pages = title, server, providers, pages
        self._operations: list[Operation] = []

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/openapi.json", self.openapi),
            web.get("/docs", self.docs),
        ]

    def describe(self, application: web.Application) -> None:
        """Take in the routes as they are now; raises LookupError where one is not described."""
        found = [
            (route.method, route.resource.canonical)
            for route in application.router.routes()
            if route.resource is not None and route.method != "HEAD"
        ]
        self._operations = operations(found)

    @public
    async def openapi(self, _: web.Request) -> web.StreamResponse:
        # Made anew each time, because a reload may have changed the providers.
        return answer(document(self._title, self._server, self._providers(), self._operations))

    @public
    async def docs(self, request: web.Request) -> web.StreamResponse:
        return self._pages.render(
            "description.html",
            request_id=request[REQUEST_ID],
            title=self._title,
            groups=_grouped(self._operations),
            show=partial(json.dumps, indent=2, ensure_ascii=False),
        )


def _grouped(listed: Iterable[Operation]) -> dict[str, list[Operation]]:
    groups: dict[str, list[Operation]] = {}
    for one in listed:
        groups.setdefault(one.tag, []).append(one)
    return groups
