"""The pages that people see: one layout, one style, strict headers, and the files that they are made of."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from broker.errors import BrokerError, InvalidRequest
from broker.http.edge import HTTPS_ONLY, SAFE
from broker.http.operations import public

Tone = Literal["good", "wait", "bad"]
"""It is done · it goes on, or nothing happened · it went wrong."""

# A browser drops tabs and newlines and reads "\" as "/", so "/\t/evil" and "/\evil" would leave this host.
_LEADS_SOMEWHERE = re.compile(r"(?:https?://|/(?![/\\]))[^\s\x00-\x1f\x7f]*")
CONTENT_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self';{scripts} form-action {form_action};"
    " base-uri 'none'; frame-ancestors 'none'"
)
SCRIPTS = " script-src 'self'; connect-src 'self';"
"""For the dashboard alone: its one file, and the stream it listens to."""


@dataclass(frozen=True, slots=True)
class Action:
    """The one thing a person may do next.

    Raises ValueError unless `url` is http(s) or a path on this host: escaping does not stop `javascript:`.
    """

    label: str
    url: str

    def __post_init__(self) -> None:
        if not _LEADS_SOMEWHERE.fullmatch(self.url):
            raise ValueError("an action leads to an http(s) address or to a path on this host")


@dataclass(frozen=True, slots=True)
class Page:
    """A message to a person; every field is plain text and escaped."""

    title: str
    tone: Tone
    lines: tuple[str, ...]
    """One paragraph each."""
    action: Action | None = None
    hint: str | None = None
    """The next step for the user, or a sentence that there is none."""
    status: int = 200


class ShownError(InvalidRequest):
    """A failure with a page of its own, which says more than an error does."""

    def __init__(self, page: Page) -> None:
        super().__init__(page.title)
        self.page = page


def error_page(error: BrokerError) -> Page:
    """Return the error's own page, or what it is, and that trying again may help where it may."""
    if isinstance(error, ShownError):
        return error.page
    passing = error.status in (429, 502, 503)
    return Page(
        title="Not just now" if passing else "There is no such page" if error.status == 404 else error.title,
        tone="wait" if passing else "bad",
        lines=(error.detail if error.detail != error.title else "There is nothing to see at this address.",),
        hint="Try again in a minute." if passing else None,
        status=error.status,
    )


class StaticFile:
    """A file that pages are made of."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._hash = hashlib.sha256(self._body).hexdigest()[:16]
        self._content_type = CONTENT_TYPES[path.suffix]
        self.path = f"/static/{path.name}"
        self.link = f"{self.path}?v={self._hash}"
        """The address that pages use; it changes with the content."""

    @public
    async def serve(self, request: web.Request) -> web.Response:
        # During a rolling update a page may ask the other version; that answer must not be kept under its name.
        current = request.query.get("v") == self._hash
        return web.Response(
            body=self._body,
            content_type=self._content_type,
            charset="utf-8" if self._content_type.startswith("text/") else None,
            # An icon opened by itself is a document too, and may do nothing.
            headers={**SAFE, "Cache-Control": FOREVER if current else "no-cache"},
        )


@cache
def _sources(*folders: Path) -> tuple[Mapping[str, StaticFile], Environment]:
    """Read the `static` and `templates` of these folders once a process; a template is compiled once as well."""
    paths = [path for folder in folders for path in sorted((folder / "static").iterdir())]
    files = {path.name: StaticFile(path) for path in paths if path.suffix in CONTENT_TYPES}
    environment = Environment(
        loader=FileSystemLoader([folder / "templates" for folder in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    return MappingProxyType(files), environment


class Pages:
    """The one way to answer a browser with HTML."""

    def __init__(self, *, sandbox: bool, https: bool, folder: Path | None = None) -> None:
        """`folder` has `templates` and `static` besides those of all pages; its pages may run its scripts."""
        self._sandbox, self._https, self._scripts = sandbox, https, SCRIPTS if folder else ""
        self._static, self._templates = _sources(Path(__file__).parent, *([folder] if folder else []))

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
        """Fill a template; a value that it lacks raises jinja2's UndefinedError.

        `form_action` are the CSP sources that its forms lead to, redirects included.
        """
        text = self._templates.get_template(template).render(
            sandbox=self._sandbox,
            static=lambda name: self._static[name].link,
            request_id=request_id,
            **values,
        )
        return web.Response(
            text=text, status=status, content_type="text/html", headers=self.security_headers(form_action)
        )

    def security_headers(self, form_action: str = "'self'") -> dict[str, str]:
        """Return the headers of every page: nothing of others in it, nowhere framed, nothing kept, nothing told.

        Raises ValueError where `form_action` would begin another directive or policy (CSP Level 3, 2.2).
        """
        if ";" in form_action or "," in form_action:
            raise ValueError("form_action holds sources only, divided by spaces")
        policy = {"Content-Security-Policy": POLICY.format(form_action=form_action, scripts=self._scripts)}
        return {**SAFE, **policy, **(HTTPS_ONLY if self._https else {})}

    def routes(self) -> list[web.RouteDef]:
        """`/static/…`: style, icons and scripts."""
        return [web.get(file.path, file.serve) for file in self._static.values()]
