"""An error for a person."""

from broker.errors import BrokerError
from broker.pages.page import Page


def error_page(error: BrokerError) -> Page:
    """What it is, and that trying again may help where it may."""
    passing = error.status in (429, 502, 503)
    return Page(
        title="Not just now" if passing else "There is no such page" if error.status == 404 else error.title,
        tone="wait" if passing else "bad",
        lines=(error.detail if error.detail != error.title else "There is nothing to see at this address.",),
        hint="Try again in a minute." if passing else None,
        status=error.status,
    )
