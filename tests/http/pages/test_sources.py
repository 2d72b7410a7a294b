"""What may not stand in templates, style and icons: other hosts, scripts, unreadable colours."""

import re
from pathlib import Path

import pytest

import broker.http.pages

FOLDER = Path(broker.http.pages.__file__).parent
STYLE = (FOLDER / "static" / "style.css").read_text()
SOURCES = sorted(path for name in ("templates", "static") for path in (FOLDER / name).iterdir())
FORBIDDEN = re.compile(
    r"//\w|@import|url\(|<script|<style|<iframe|javascript:|\sstyle\s*=|\son\w+\s*=|\|\s*safe|autoescape|<foreignObject",
    re.IGNORECASE,
)
XMLNS = 'xmlns="http://www.w3.org/2000/svg"'

READ_ON = [
    ("ink", "card", 4.5),
    ("ink", "back", 4.5),
    ("text", "card", 4.5),
    ("soft", "card", 4.5),
    ("soft", "back", 4.5),
    ("on-accent", "accent", 4.5),
    ("on-accent", "accent-hover", 4.5),
    ("note", "note-back", 4.5),
    ("accent", "card", 3.0),
]
"""Foreground, background, and the least contrast (WCAG 2.2, 1.4.3 for text, 1.4.11 for the focus ring)."""


def forbidden(text: str) -> list[str]:
    """What the policy would block, and what would go around the escaping."""
    return FORBIDDEN.findall(text.replace(XMLNS, ""))


def palette(scheme: str) -> dict[str, str]:
    """The custom colours of the light or the dark scheme."""
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    colours = re.compile(r"--([\w-]+): (#[0-9a-f]{6});")
    return dict(colours.findall(light if scheme == "light" else dark.split("@media")[0]))


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_hold_no_script_and_no_other_host(path: Path) -> None:
    """Pages are HTML and one style sheet of our own, always escaped."""
    assert forbidden(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        '<link href="https://fonts.example/a.css">',
        '<img src="//cdn.example/x.png">',
        "@import 'x.css'",
        "background: url(x.png)",
        '<p style="color: red">',
        '<body onload="x()">',
        "{{ title | safe }}",
        "<script>",
    ],
)
def test_planted_source_is_caught(planted: str) -> None:
    """The check itself can fail."""
    assert forbidden(planted) != []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("front", "back", "least"), READ_ON)
def test_colours_can_be_read(scheme: str, front: str, back: str, least: float) -> None:
    """AA in both schemes."""
    colours = palette(scheme)

    assert contrast(colours[front], colours[back]) >= least


@pytest.mark.parametrize("query", ["prefers-color-scheme: dark", "print"])
def test_style_knows_where_it_is_seen(query: str) -> None:
    """In the dark, and on paper."""
    assert query in STYLE
