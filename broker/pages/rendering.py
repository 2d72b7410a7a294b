"""Fills templates and puts the headers on that keep a page to itself."""

from functools import cache
from pathlib import Path

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from broker.pages.files import static_files
from broker.pages.page import Page

TEMPLATES = Path(__file__).parent / "templates"

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self';{scripts} form-action {form_action};"
    " base-uri 'none'; frame-ancestors 'none'"
)
SCRIPTS = " script-src 'self'; connect-src 'self';"
"""For the dashboard alone: its one file, and the stream it listens to."""
ISOLATION = {
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# Without includeSubDomains: neighbours of this host are not ours to decide about.
HTTPS_ONLY = {"Strict-Transport-Security": "max-age=31536000"}


class Pages:
    """The one way to answer a person with HTML."""

    def __init__(self, *, sandbox: bool, https: bool, room: Path | None = None) -> None:
        """`room`: a folder with `templates` and `static` of its own; its pages may run its scripts."""
        self._sandbox, self._https, self._scripts = sandbox, https, SCRIPTS if room else ""
        self._static = static_files(*([room / "static"] if room else []))
        self._templates = _templates(*([room / "templates"] if room else []))

    def message(self, page: Page, *, request_id: str) -> web.Response:
        """A page that says one thing."""
        return self.render("message.html", status=page.status, request_id=request_id, page=page)

    def render(
        self,
        template: str,
        *,
        status: int = 200,
        form_action: str = "'self'",
        request_id: str,
        **values: object,
    ) -> web.Response:
        """A template of this room, filled; a value the template lacks raises jinja2's UndefinedError.

        `form_action` are the CSP sources that its forms lead to, redirects included.
        """
        text = self._templates.get_template(template).render(
            sandbox=self._sandbox, static=self._link, request_id=request_id, **values
        )
        return web.Response(
            text=text, status=status, content_type="text/html", headers=self.security_headers(form_action)
        )

    def security_headers(self, form_action: str = "'self'") -> dict[str, str]:
        """The headers of every page: nothing of others in it, nowhere framed, nothing kept, nothing told.

        Raises ValueError where `form_action` would begin another directive or policy (CSP Level 3, 2.2).
        """
        if ";" in form_action or "," in form_action:
            raise ValueError("form_action holds sources only, divided by spaces")
        policy = {"Content-Security-Policy": POLICY.format(form_action=form_action, scripts=self._scripts)}
        return {**policy, **ISOLATION, **(HTTPS_ONLY if self._https else {})}

    def routes(self) -> list[web.RouteDef]:
        """`/static/…`: style and icons."""
        return [web.get(file.path, file.serve) for file in self._static.values()]

    def _link(self, name: str) -> str:
        return self._static[name].link


@cache
def _templates(*folders: Path) -> Environment:
    """Those of all pages and of a room's own folders; a template is compiled once, whoever shows it."""
    return Environment(
        loader=FileSystemLoader([TEMPLATES, *folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
