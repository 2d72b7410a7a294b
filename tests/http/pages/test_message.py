"""What a message page says, and that nothing in it can be more than text."""

from dataclasses import replace
from typing import get_args

import pytest
from jinja2 import UndefinedError

from broker.http.pages import Action, Page, Pages, Tone

from .reading import Document, show, text_of

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}{% raw %}&amp;"
PLAIN = Page(title="Connected", tone="good", lines=("Kit is connected as acme.",))
FULL = replace(
    PLAIN,
    action=Action(label="Back to Kit", url="https://app.kit.com/apps/717"),
    hint="You can close this page.",
)


def test_page_shows_everything_it_was_given() -> None:
    """Title, lines, button and hint, with the request id as the reference."""
    page = show(FULL)

    assert page.text == [
        "Connected · token-broker",
        "token-broker",
        "Connected",
        "Kit is connected as acme.",
        "Back to Kit",
        "You can close this page.",
        "Reference",
        "9f2c41d07be3a855",
    ]


def test_page_without_action_and_hint_shows_neither() -> None:
    """No empty button, no empty paragraph."""
    page = show(PLAIN)

    assert page.all("a") == []
    assert not any(attributes.get("class") == "hint" for attributes in page.all("p"))


def test_button_leads_where_the_action_says() -> None:
    """The address arrives whole, ampersands included."""
    url = "https://app.kit.com/apps/717?a=1&amp=2"

    page = show(replace(PLAIN, action=Action(label="Back", url=url)))

    assert [url] == [link["href"] for link in page.all("a")]


@pytest.mark.parametrize(
    "page",
    [
        replace(FULL, title=HOSTILE),
        replace(FULL, lines=(HOSTILE, HOSTILE)),
        replace(FULL, hint=HOSTILE),
        replace(FULL, action=Action(label=HOSTILE, url="https://kit.example")),
    ],
    ids=["title", "lines", "hint", "label"],
)
def test_hostile_text_stays_text(page: Page) -> None:
    """Every field is shown letter by letter; no element comes of it, and no template."""
    shown = show(page)

    assert set(show(FULL).tags) == set(shown.tags)
    assert any(HOSTILE in text for text in shown.text)


def test_hostile_address_stays_inside_its_attribute() -> None:
    """Quotes and brackets do not end it."""
    url = "https://kit.example/\"><script>alert(1)</script><a/onclick='x"

    page = show(replace(PLAIN, action=Action(label="Back", url=url)))

    assert [{"class": "button", "href": url}] == page.all("a")
    assert "script" not in page.tags


def test_hostile_request_id_stays_text() -> None:
    """The reference is escaped too, whoever made it up."""
    answer = Pages(sandbox=False, https=True).message(PLAIN, request_id=HOSTILE)

    assert HOSTILE in Document(text_of(answer)).text


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "JAVASCRIPT:alert(1)",
        "data:text/html,x",
        "//evil.example/",
        "/\\evil.example/",
        "/\t/evil.example/",
        "https://kit.example/\n",
        "apps",
        "",
    ],
)
def test_action_leads_to_http_or_to_a_path_here(url: str) -> None:
    """Anything a browser would run, or follow to a host that is not named, is refused."""
    with pytest.raises(ValueError, match="http"):
        Action(label="Go", url=url)


@pytest.mark.parametrize(
    "url", ["/", "/dashboard", "http://127.0.0.1:8081/x", "https://app.kit.com/apps?a=b#c"]
)
def test_ordinary_addresses_are_taken(url: str) -> None:
    """Paths here and http(s) addresses."""
    assert url == Action(label="Go", url=url).url


@pytest.mark.parametrize("tone", get_args(Tone))
def test_each_tone_has_its_icon(tone: Tone) -> None:
    """The icon's name is the tone; it says nothing to a screen reader that the title does not say."""
    images = show(replace(PLAIN, tone=tone)).all("img")

    icons = [image for image in images if str(image["src"]).startswith(f"/static/{tone}.svg?v=")]
    assert [icon["alt"] for icon in icons] == [""]


@pytest.mark.parametrize("sandbox", [True, False])
def test_strip_tells_the_sandbox_and_only_the_sandbox(sandbox: bool) -> None:
    """With it on, every page says so."""
    page = show(PLAIN, sandbox=sandbox)

    assert sandbox == ("Sandbox: nothing here is real" in page.text)


def test_page_is_found_by_those_who_do_not_see_it() -> None:
    """A language, one main landmark, one heading, a header and a footer."""
    page = show(FULL)

    assert page.all("html") == [{"lang": "en"}]
    assert [page.tags.count(tag) for tag in ("main", "h1", "header", "footer")] == [1] * 4


def test_missing_value_is_a_mistake() -> None:
    """A template that lacks a value says so instead of showing a hole."""
    pages = Pages(sandbox=False, https=True)

    with pytest.raises(UndefinedError, match="page"):
        pages.render("message.html", request_id="9f2c41d07be3a855")
