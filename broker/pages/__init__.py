"""Pages that people see (being built)."""
from dataclasses import dataclass
from html import escape
from typing import Literal

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Action:
    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    tone: Literal["good", "wait", "bad"]
    lines: tuple[str, ...]
    action: Action | None = None
    hint: str | None = None
    status: int = 200


class Pages:
    def __init__(self, *, sandbox: bool, https: bool) -> None:
        self._sandbox, self._https = sandbox, https

    def message(self, page: Page, *, request_id: str) -> web.Response:
        body = f"<h1>{escape(page.title)}</h1>" + "".join(f"<p>{escape(line)}</p>" for line in page.lines)
        return web.Response(text=body, content_type="text/html", status=page.status)

    def routes(self) -> list[web.RouteDef]:
        return []
