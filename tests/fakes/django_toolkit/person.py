"""A person at a browser who signs in and clicks Authorize."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

import aiohttp
from yarl import URL

USERNAME = "ada"
PASSWORD = "analytical engine"

MOST_PAGES = 10


async def approve(session: aiohttp.ClientSession, authorize_url: str) -> str:
    """Go to `authorize_url`, sign in, allow, and return where the server then sends the browser.

    That address, which holds code and state or an error, is not visited. The browser is a new one each time.
    Raises AssertionError, with the page, where there is nothing that a person could click.
    """
    browser = _Browser(session)
    target = URL(authorize_url, encoded=True)
    fields: dict[str, str] | None = None
    for _ in range(MOST_PAGES):
        status, location, page = await browser.go(target, fields)
        if location is None:
            fields = _filled_in(status, page)
            continue
        target, fields = target.join(location), None
        if target.origin() != URL(authorize_url).origin():
            return str(location)
    raise AssertionError(f"sent round in circles, last to {target}")


@dataclass(slots=True)
class _Browser:
    """Cookies of its own: aiohttp's jar keeps none for addresses without a name."""

    session: aiohttp.ClientSession
    cookies: dict[str, str] = field(default_factory=dict)

    async def go(self, url: URL, fields: dict[str, str] | None) -> tuple[int, URL | None, str]:
        """GET, or POST `fields`. Returns the status, the redirect's target if it is one, and the page."""
        method = "GET" if fields is None else "POST"
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        async with self.session.request(
            method, url, data=fields, headers=headers, allow_redirects=False
        ) as answer:
            self.cookies |= {name: morsel.value for name, morsel in answer.cookies.items()}
            location = answer.headers.get("Location")
            return answer.status, URL(location, encoded=True) if location else None, await answer.text()


def _filled_in(status: int, page: str) -> dict[str, str]:
    """What the page's form sends when a person has filled it in and clicked the last button."""
    form = _Form()
    form.feed(page)
    if status != 200 or not form.fields:
        raise AssertionError(f"nothing to click on this page, status {status}:\n{page}")
    known = {"username": USERNAME, "password": PASSWORD}
    return {name: known.get(name, value) for name, value in form.fields.items()}


class _Form(HTMLParser):
    """The named inputs of a page with one form."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("name")
        if tag == "input" and name:
            self.fields[name] = given.get("value") or ""
