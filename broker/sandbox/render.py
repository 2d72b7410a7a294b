"""Fills the sandbox's pages; they are self-contained and say that nothing here is real."""

from pathlib import Path

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HEADERS = {
    # No form-action: browsers apply it to the redirect that follows, and that leads to the broker.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=StrictUndefined
)


def page(template: str, *, status: int = 200, **values: object) -> web.Response:
    text = _PAGES.get_template(template).render(**values)
    return web.Response(status=status, text=text, content_type="text/html", headers=HEADERS)


def refusal(who: str, message: str, *, status: int = 400) -> web.Response:
    """A page for the person, where redirecting would be wrong."""
    return page("refusal.html", status=status, who=who, message=message)
