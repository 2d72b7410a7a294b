"""What goes over the wire with a page: headers, and the files it is made of."""

from urllib.parse import urlsplit

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from broker.http.pages import Page, Pages

from .reading import Document

EXPIRED = Page(
    title="This link has expired", tone="bad", lines=("Links are good for a short time.",), status=410
)
FOREVER = "public, max-age=31536000, immutable"


def serving(pages: Pages) -> web.Application:
    """An application with one page and what belongs to it."""

    async def expired(request: web.Request) -> web.Response:
        return pages.message(EXPIRED, request_id="9f2c41d07be3a855")

    application = web.Application()
    application.add_routes([web.get("/expired", expired), *pages.routes()])
    return application


async def test_page_keeps_to_itself(aiohttp_client: AiohttpClient) -> None:
    """Nothing of others in it, nowhere framed, nothing kept, nothing told to where it leads."""
    client = await aiohttp_client(serving(Pages(sandbox=False, https=True)))

    answer = await client.get("/expired")

    assert (answer.status, answer.headers["Content-Type"]) == (410, "text/html; charset=utf-8")
    assert {
        "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Strict-Transport-Security": "max-age=31536000",
    }.items() <= dict(answer.headers).items()


def test_plain_http_does_not_promise_https() -> None:
    """On loopback there is no TLS to insist on."""
    headers = Pages(sandbox=True, https=False).security_headers("'self'")

    assert "Strict-Transport-Security" not in headers


def test_form_may_lead_on_to_the_origin_it_redirects_to() -> None:
    """Chromium applies form-action to the redirect that follows."""
    headers = Pages(sandbox=False, https=True).security_headers("'self' https://app.kit.com")

    assert "; form-action 'self' https://app.kit.com;" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("sources", ["'self'; script-src *", "'self', script-src *"])
def test_form_action_cannot_widen_the_policy(sources: str) -> None:
    """A semicolon would begin another directive, a comma another policy."""
    with pytest.raises(ValueError, match="sources only"):
        Pages(sandbox=False, https=True).security_headers(sources)


async def test_everything_a_page_links_is_there_and_kept_for_good(aiohttp_client: AiohttpClient) -> None:
    """Style and icons, under addresses that change with their content."""
    client = await aiohttp_client(serving(Pages(sandbox=True, https=True)))
    page = Document(await (await client.get("/expired")).text())
    links = [str(link["href"]) for link in page.all("link")] + [
        str(image["src"]) for image in page.all("img")
    ]

    answers = [await client.get(link) for link in links]

    assert {"/static/style.css", "/static/icon.svg", "/static/bad.svg"} == {
        urlsplit(link).path for link in links
    }
    assert {(200, FOREVER)} == {(answer.status, answer.headers["Cache-Control"]) for answer in answers}


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/static/style.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
        ("/static/good.svg", "image/svg+xml"),
        ("/static/wait.svg", "image/svg+xml"),
        ("/static/bad.svg", "image/svg+xml"),
    ],
)
async def test_files_say_what_they_are(aiohttp_client: AiohttpClient, path: str, content_type: str) -> None:
    """A type that holds, and a policy of their own for who opens one by itself."""
    client = await aiohttp_client(serving(Pages(sandbox=False, https=True)))

    answer = await client.get(path)

    assert (200, content_type) == (answer.status, answer.headers["Content-Type"])
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert await answer.text()


@pytest.mark.parametrize("query", ["", "?v=0000000000000000"])
async def test_other_version_is_not_kept(aiohttp_client: AiohttpClient, query: str) -> None:
    """During a rolling update the wrong content must not stay under the other one's name."""
    client = await aiohttp_client(serving(Pages(sandbox=False, https=True)))

    answer = await client.get("/static/style.css" + query)

    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache")


async def test_nothing_else_is_served(aiohttp_client: AiohttpClient) -> None:
    """No folder, no way out of it."""
    client = await aiohttp_client(serving(Pages(sandbox=False, https=True)))

    answers = [
        await client.get(path) for path in ("/static/", "/static/..%2frendering.py", "/static/base.html")
    ]

    assert [answer.status for answer in answers] == [404, 404, 404]
