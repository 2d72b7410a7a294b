"""How the pages that people see look: one layout, one style, strict headers."""

from broker.pages.errors import error_page
from broker.pages.page import Action, Page, Tone
from broker.pages.rendering import Pages

__all__ = ["Action", "Page", "Pages", "Tone", "error_page"]
