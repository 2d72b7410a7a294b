"""How the pages that people see look: one layout, one style, strict headers."""

from broker.http.pages.rendering import Action, Page, Pages, Tone, error_page

__all__ = ["Action", "Page", "Pages", "Tone", "error_page"]
