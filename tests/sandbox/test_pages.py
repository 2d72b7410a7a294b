"""What people see at the sandbox."""

import pytest

from broker.config.sandbox import supplied_tables
from broker.sandbox import Sandbox

from .app import App


async def test_the_index_shows_what_there_is(app: App, sandbox: Sandbox) -> None:
    """Switches, grants and requests, and where everything is."""
    sandbox.faults.set("kit", rotation="S")
    await app.connect("kustomer", org="globex")

    page = await app.get("/")

    assert page.status == 200
    assert all(
        word in page.text for word in ("globex", "issued", "/_sandbox/record", "/kit/apps/717/install")
    )


@pytest.mark.parametrize(
    "path", ["/", "/kit/apps/717/install", "/company/login?login_challenge=x", "/kit/oauth/authorize"]
)
async def test_pages_say_that_nothing_is_real_and_fetch_nothing(app: App, path: str) -> None:
    """A strip on each page; a policy that lets nothing in but the page's own style."""
    page = await app.get(path)

    assert "Sandbox: nothing here is real" in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "form-action" not in page.headers["Content-Security-Policy"]


async def test_the_supplied_urls_are_served(app: App, sandbox: Sandbox) -> None:
    """Every URL that `[sandbox]` puts into the configuration has somebody behind it."""
    tables = supplied_tables(sandbox.listen, "pem")
    urls = [
        url for table in tables["providers"].values() for name, url in table.items() if name.endswith("e_url")
    ]
    urls += [table["token_url"] for table in tables["providers"].values()] + [tables["login"]["url"]]

    seen = [await app.get(url.removeprefix(app.base)) for url in urls]

    assert len(urls) == 6
    assert all(answer.status != 404 for answer in seen)
