"""Reads a page as a browser does: elements, attributes, and the text between them."""

from html.parser import HTMLParser

from aiohttp import web

from broker.http.pages import Page, Pages

Attributes = dict[str, str | None]


class Document(HTMLParser):
    """What the parser found, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    def all(self, tag: str) -> list[Attributes]:
        return [attributes for name, attributes in self.elements if name == tag]


def text_of(response: web.Response) -> str:
    assert response.text is not None
    return response.text


def show(page: Page, *, sandbox: bool = False) -> Document:
    """The page as `Pages.message` answers it."""
    pages = Pages(sandbox=sandbox, https=True)
    return Document(text_of(pages.message(page, request_id="9f2c41d07be3a855")))
