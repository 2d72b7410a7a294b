"""What one page says, as a value; how it looks is the templates' business."""

import re
from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "wait", "bad"]
"""It is done · it goes on, or nothing happened · it went wrong."""

# A browser drops tabs and newlines and reads "\" as "/", so "/\t/evil" and "/\evil" would leave this host.
_LEADS_SOMEWHERE = re.compile(r"(?:https?://|/(?![/\\]))[^\s\x00-\x1f\x7f]*")


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
    """What to do now, or that there is nothing to do."""
    status: int = 200
