"""Kit's `redirect`: read from the raw query as Kit writes it, and never a way to anywhere else."""

from urllib.parse import quote

import pytest

from broker.installs.routes import app_page, is_allowed, kit_redirect
from broker.providers.kinds import KIT, pages_of

APP = "https://app.kit.com/apps/1?success=true"


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("redirect=https://app.kit.com/apps", "https://app.kit.com/apps"),
        (f"redirect={APP}", APP),
        (f"redirect={APP}&more=1", f"{APP}&more=1"),
        (f"redirect={APP}&redirect=https://evil.example/", f"{APP}&redirect=https://evil.example/"),
        (f"x=1&redirect={APP}", APP),
        (f"redirect={quote(APP, safe='')}", APP),
        (f"redirect={quote(APP, safe='').replace('%3A', '%3a')}", APP),
        # Encoded twice is decoded once: what is left is no address, and refused.
        (f"redirect={quote(quote(APP, safe=''), safe='')}", quote(quote(APP, safe=""), safe="")),
        # Not decoded in the middle: what Kit wrote is what Kit gets back.
        ("redirect=https://app.kit.com/apps/1?name=a%26b", "https://app.kit.com/apps/1?name=a%26b"),
        ("redirect=", ""),
        ("", None),
        ("x=1", None),
        ("xredirect=https://app.kit.com/apps", None),
        ("redirect_uri=https://app.kit.com/apps", None),
    ],
)
def test_everything_behind_the_first_redirect_belongs_to_it(query: str, value: str | None) -> None:
    """Kit sends it unencoded, with a nested `?` and perhaps `&` (providers C10)."""
    assert value == kit_redirect(query)


@pytest.mark.parametrize(
    "url",
    [
        "https://app.kit.com/apps",
        "https://app.kit.com/apps/",
        "https://app.kit.com/apps/717",
        "https://app.kit.com/apps/717?success=true&x=%2e%2e",
        "https://app.kit.com/apps/717#done",
        "https://app.kit.com/apps/717/install?k_app_id=k_717",
    ],
)
def test_kits_own_pages_are_allowed(url: str) -> None:
    """https, exactly its host, at or below /apps."""
    assert is_allowed(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/apps",
        "//app.kit.com/apps",
        "http://app.kit.com/apps",
        "Https://app.kit.com/apps?https:",
        "ftp://app.kit.com/apps",
        "javascript:alert(1)//https://app.kit.com/apps",
        "https:/app.kit.com/apps",
        "https:app.kit.com/apps",
        "https://kit.com/apps",
        "https://app.kit.com.evil.example/apps",
        "https://evil.example/apps?https://app.kit.com/apps",
        "https://evil.example#@app.kit.com/apps",
        "https://app.kit.com@evil.example/apps",
        "https://evil.example@app.kit.com/apps",
        "https://:@app.kit.com/apps",
        "https://app.kit.com:443/apps",
        "https://app.kit.com:8443/apps",
        "https://app.kit.com:/apps",
        "https://app.kit.com:99999/apps",
        "https://app.kit.com./apps",
        "https://app.kit.com\\@evil.example/apps",
        "https://app.kit.com/apps\\..\\",
        "https://[app.kit.com/apps",
        "https://app.kit.com",
        "https://app.kit.com/",
        "https://app.kit.com/appstore",
        "https://app.kit.com/apps;x",
        "https://app.kit.com//apps",
        "https://app.kit.com/other/apps",
        "https://app.kit.com/apps/../oauth/authorize",
        "https://app.kit.com/apps/%2e%2e/oauth/authorize",
        "https://app.kit.com/apps/.%2E/oauth/authorize",
        "https://app.kit.com/apps%2f../oauth",
        "https://app.kit.com/apps\r\nX-Evil: 1",
        "https://app.kit.com/apps\n",
        "https://app.kit.com/ap\tps",
        " https://app.kit.com/apps",
        "https://app.kit.com/apps/a b",
        'https://app.kit.com/apps/"onclick',
        "https://app.kit.com/apps/\x00",
        "https://app.kit.com/apps/ü",
        "https://аpp.kit.com/apps",  # noqa: RUF001 - a Cyrillic a is the point
        "https://app.kit.com/apps/" + "x" * 2048,
    ],
)
def test_nothing_else_is_a_way_out(url: str) -> None:
    """No open redirect, whatever the browser's parser would make of it."""
    assert not is_allowed(url)


@pytest.mark.parametrize(
    ("authorize_url", "pages"),
    [
        (None, KIT),
        ("https://app.kit.com/oauth/authorize", KIT),
        ("https://api.kit.com/v4/oauth/authorize", KIT),
        ("https://proxy.example.com/oauth/authorize", KIT),
        ("http://127.0.0.1:8089/kit/oauth/authorize", "http://127.0.0.1:8089/kit"),
        ("http://127.0.0.1:8089/kit/v4/oauth/authorize", "http://127.0.0.1:8089/kit"),
        # Something on this machine that is not laid out as the sandbox is: nobody knows its pages.
        ("http://localhost:9000/authorize", KIT),
    ],
)
def test_pages_of_a_sandbox_are_its_own(authorize_url: str | None, pages: str) -> None:
    """Whoever plays Kit plays the page where an install ends as well."""
    assert pages == pages_of(authorize_url)
    assert (f"{pages}/apps/717", f"{pages}/apps") == (app_page(717, pages), app_page(None, pages))
    assert is_allowed(app_page(717, pages), pages)
