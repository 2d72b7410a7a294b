"""How the pages that people see look: one layout, one style, strict headers."""

from broker.http.pages.rendering import CONTENT_TYPES, Action, Page, Pages, Tone, error_page

__all__ = ["CONTENT_TYPES", "Action", "Page", "Pages", "Tone", "error_page"]
