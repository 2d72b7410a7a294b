"""The files that pages are made of, held in memory and linked by their content."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from aiohttp import web

FOLDER = Path(__file__).parent / "static"
CONTENT_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"

HEADERS = {
    # An icon opened by itself is a document too, and may do nothing.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class StaticFile:
    """One file of the package."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._hash = hashlib.sha256(self._body).hexdigest()[:16]
        self._content_type = CONTENT_TYPES[path.suffix]
        self.path = f"/static/{path.name}"

    @property
    def link(self) -> str:
        """The address that pages use; it changes with the content."""
        return f"{self.path}?v={self._hash}"

    async def serve(self, request: web.Request) -> web.Response:
        # During a rolling update a page may ask the other version; that answer must not be kept under its name.
        current = request.query.get("v") == self._hash
        charset = "utf-8" if self._content_type.startswith("text/") else None
        return web.Response(
            body=self._body,
            content_type=self._content_type,
            charset=charset,
            headers={**HEADERS, "Cache-Control": FOREVER if current else "no-cache"},
        )


@cache
def static_files(*folders: Path) -> Mapping[str, StaticFile]:
    """Every file there is, by name: those of all pages, and those of a room's own folders; read once a process."""
    files = {
        path.name: StaticFile(path)
        for folder in (FOLDER, *folders)
        for path in sorted(folder.iterdir())
        if path.suffix in CONTENT_TYPES
    }
    return MappingProxyType(files)
