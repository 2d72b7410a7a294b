"""What a provider is asked besides tokens: to revoke, whether it is there, and whose grant this is."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from broker.config import load
from broker.config.settings import OAuthClient, ProviderSettings
from broker.model import Secret
from broker.providers.answers import text_at
from broker.providers.client import ProviderClient
from broker.providers.kinds import endpoints_of
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import Identified, IdentityUnknown, NotSent, Reached
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import JSON, Answer, Drop, Raw, Scripted, Upstream, json_answer
from tests.ports import free_port

NOW = 1_792_000_000.0


@pytest.fixture(name="upstream")
async def _upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream
        assert [] == upstream.violations


@pytest.fixture(name="http")
async def _http() -> AsyncIterator[ProviderClient]:
    http = ProviderClient()
    yield http
    await http.close()


def settings(tmp_path: Path, kind: str, lines: str = "") -> ProviderSettings:
    (tmp_path / "config.toml").write_text(
        f'[providers.p]\ntype = "{kind}"\nclient_id = "c"\nclient_secret = "s"\n{lines}'
    )
    return load(tmp_path / "config.toml", environ={}).providers["p"]


def provider(one: ProviderSettings, http: ProviderClient) -> OAuth2Provider:
    return OAuth2Provider(settings=one, http=http, clock=FakeClock(NOW), timeout=5)


@pytest.mark.parametrize(
    ("script", "confirmed"),
    [
        (Answer(200, {}, b""), True),
        (json_answer({}), True),
        (Answer(204, {"Content-Length": "0"}, b""), True),
        (Raw(b"HTTP/1.1 204 No Content\r\n\r\n"), True),
        (Answer(202, {}, b"soon"), True),
        (Answer(200, {"Content-Encoding": "br"}, b"\xff\xff"), True),
        (Answer(302, {"Location": "/login"}, b""), False),
        (json_answer({"error": "unauthorized_client"}, 403), False),
        (Answer(404, {}, b""), False),
        (Answer(503, {}, b""), False),
        (Drop(), False),
    ],
)
async def test_revocation_is_a_form_with_the_client(
    tmp_path: Path, http: ProviderClient, upstream: Upstream, script: Scripted, confirmed: bool
) -> None:
    """RFC 7009; Kit documents a form and an empty 200, and whatever else comes is no confirmation."""
    upstream.script([script])
    url = upstream.url.replace("/token", "/revoke")
    one = provider(settings(tmp_path, "kit", f'revoke_url = "{url}"'), http)

    found = await one.revoke(Secret("rt"), client_id="c", org=None)

    assert confirmed is found
    [request] = upstream.requests
    assert {"token": "rt", "client_id": "c", "client_secret": "s"} == request.form


async def test_revocation_goes_with_the_client_that_minted_the_grant(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """Another client's request would be refused, and an unknown client's is not sent."""
    upstream.script([Answer(200, {}, b"")])
    url = upstream.url.replace("/token", "/revoke")
    old = OAuthClient("old", (Secret("old-s"),))
    one = provider(replace(settings(tmp_path, "kit", f'revoke_url = "{url}"'), previous_clients=(old,)), http)

    assert await one.revoke(Secret("rt"), client_id="old", org=None)
    assert not await one.revoke(Secret("rt"), client_id="stranger", org=None)
    assert [("old", "old-s")] == [
        (request.form["client_id"], request.form["client_secret"]) for request in upstream.requests
    ]


async def test_kustomer_has_no_revocation(tmp_path: Path, http: ProviderClient) -> None:
    """It documents none: a disconnect is local."""
    assert not await provider(settings(tmp_path, "kustomer"), http).revoke(
        Secret("rt"), client_id="c", org="acme"
    )


@pytest.mark.parametrize(
    ("kind", "lines", "revoke", "identity"),
    [
        ("kit", "", "https://api.kit.com/v4/oauth/revoke", "https://api.kit.com/v4/account"),
        (
            "kit",
            'endpoints = "v4"',
            "https://api.kit.com/v4/oauth/revoke",
            "https://api.kit.com/v4/account",
        ),
        ("kit", 'api_url = "https://k.example/x/"', None, "https://k.example/x/v4/account"),
        ("kustomer", "", None, "https://api.kustomerapp.com/v1/users/current"),
        (
            "kustomer",
            'endpoints = "org"',
            None,
            "https://{org}.api.kustomerapp.com/v1/users/current",
        ),
        ("kustomer", 'identity_url = "https://k.example/me"', None, "https://k.example/me"),
    ],
)
def test_addresses_beside_the_token_url(
    tmp_path: Path, kind: str, lines: str, revoke: str | None, identity: str
) -> None:
    """As documented; a given one replaces its own alone, and none is derived from another."""
    one = settings(tmp_path, kind, lines)

    found = endpoints_of(one)

    assert identity == found.identity
    assert revoke in (found.revoke, None)


async def test_reaching_sends_no_credential_and_compares_clocks(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """Any answer will do; its `Date` is only ever a warning (R12)."""
    upstream.script([Answer(404, {"Date": "Wed, 14 Oct 2026 17:53:50 GMT"}, b"")])
    one = provider(settings(tmp_path, "kit", f'token_url = "{upstream.url}"'), http)

    assert Reached(430.0) == await one.reach()
    [request] = upstream.requests
    assert ("GET", "/.well-known/oauth-authorization-server", b"") == (
        request.method,
        request.path,
        request.body,
    )
    assert "authorization" not in request.headers


async def test_unreachable_provider_is_told(tmp_path: Path, http: ProviderClient) -> None:
    """So is one whose address nobody knows without an org."""
    gone = provider(settings(tmp_path, "kit", f'token_url = "http://127.0.0.1:{free_port()}/token"'), http)
    org = provider(settings(tmp_path, "kustomer", 'endpoints = "org"'), http)

    assert isinstance(await gone.reach(), NotSent)
    assert isinstance(await org.reach(), NotSent)


@pytest.mark.parametrize(
    ("account", "lines", "tenant"),
    [
        ("acme", "", "acme"),
        (None, "", None),
        ("acme", 'authorize_params = { tenant_name = "ours" }', "ours"),
    ],
)
async def test_kits_tenant_is_the_accounts_name(
    tmp_path: Path, http: ProviderClient, account: str | None, lines: str, tenant: str | None
) -> None:
    """Two connections of one Kit account get tokens of their own; a configured tenant wins."""
    url = provider(settings(tmp_path, "kit", lines), http).authorize_url(
        redirect_uri="https://b.example/cb",
        state=Secret("s"),
        verifier=Secret("v"),
        org=None,
        account=account,
    )

    query = parse_qs(urlsplit(url).query)
    assert ([tenant] if tenant else None) == query.get("tenant_name")


@pytest.mark.parametrize(
    "body",
    [
        b'{"user": [{"id": 7}]}',
        b'{"user": [{"id": "7", "name": "Zo\xeb"}]}',
        b'{"user": [{"id": 7, "name": "a\tb"}]}',
        '{"user": [{"id": 7}]}'.encode("utf-16"),
    ],
)
async def test_identity_of_any_provider_is_at_its_pointer(
    tmp_path: Path, http: ProviderClient, upstream: Upstream, body: bytes
) -> None:
    """By configuration alone; the token goes into the header and nowhere else."""
    upstream.script([Answer(200, JSON, body)])
    url = upstream.url.replace("/token", "/me")
    lines = f"""authorize_url = "{upstream.url}"
token_url = "{upstream.url}"
identity_url = "{url}"
identity_pointer = "/user/0/id"
"""
    one = provider(settings(tmp_path, "oauth2", lines), http)

    outcome = await one.identify(Secret("at"), org=None)

    assert isinstance(outcome, Identified)
    assert "7" == outcome.identity.external_id
    assert ("Bearer at", "/me") == (upstream.requests[0].headers["authorization"], upstream.requests[0].path)


async def test_token_that_no_header_can_carry_identifies_nobody(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """It would inject a header into our own request."""
    url = upstream.url.replace("/token", "/me")
    one = provider(settings(tmp_path, "kit", f'identity_url = "{url}"'), http)

    assert isinstance(await one.identify(Secret("at\r\nX-Evil: 1"), org=None), IdentityUnknown)
    assert [] == upstream.requests


@pytest.mark.parametrize(
    ("value", "pointer", "found"),
    [
        ({"id": "x"}, "/id", "x"),
        ({"id": 10**18}, "/id", str(10**18)),
        ({"a": [{"b": " x "}]}, "/a/0/b", "x"),
        ({"a/b": {"c~d": "x"}}, "/a~1b/c~0d", "x"),
        ({"": "x"}, "/", "x"),
        ({"id": "y" * 300}, "/id", "y" * 300),
        ({"id": True}, "/id", None),
        ({"id": 1.5}, "/id", None),
        ({"id": None}, "/id", None),
        ({"id": ""}, "/id", None),
        ({"id": "a\nb"}, "/id", None),
        ({"id": "\ud800"}, "/id", None),
        ({"id": {"x": 1}}, "/id", None),
        ({}, "/id", None),
        ([], "/0", None),
        (["x"], "/one", None),
        ("text", "/0", None),
    ],
)
def test_json_pointer(value: object, pointer: str, found: str | None) -> None:
    """RFC 6901, to a text or a whole number that can be shown."""
    assert found == text_at(json.dumps(value).encode(), pointer)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b'{"id":' + b"9" * 5_000 + b"}"])
def test_body_that_is_no_json_has_no_pointer(body: bytes) -> None:
    """Never an exception."""
    assert text_at(body, "/id") is None


async def test_identity_in_a_redirect_is_not_followed(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """The access token stays with the host it is for."""
    async with Upstream() as elsewhere:
        upstream.script([Answer(302, {**JSON, "Location": elsewhere.url}, b"{}")])
        url = upstream.url.replace("/token", "/me")

        await provider(settings(tmp_path, "kit", f'identity_url = "{url}"'), http).identify(
            Secret("at"), org=None
        )

        assert [] == elsewhere.requests


@pytest.mark.parametrize(
    ("iss", "configured", "is_right"),
    [
        ("https://id.example.com", None, True),
        ("https://ID.example.com:443/tenant", None, True),
        ("https://tokens.example.org/x", None, True),
        ("https://example.com", None, True),
        ("http://id.example.com", None, False),
        ("https://id.example.com:8443", None, False),
        ("https://com", None, False),
        ("https://evil.id.example.com", None, False),
        ("https://evilexample.com", None, False),
        ("https://id.example.com@evil.example", None, False),
        ("https://[", None, False),
        ("", None, False),
        ("https://elsewhere.example/t1", "https://elsewhere.example/t1", True),
        ("https://elsewhere.example/t1/", "https://elsewhere.example/t1", False),
        ("https://id.example.com", "https://elsewhere.example/t1", False),
    ],
)
async def test_issuer_is_the_providers(
    tmp_path: Path, http: ProviderClient, iss: str, configured: str | None, is_right: bool
) -> None:
    """As it is configured, compared whole (RFC 9207 2.4); else at the domain of its addresses."""
    lines = 'authorize_url = "https://id.example.com/a"\ntoken_url = "https://tokens.example.org/t"\n'
    lines += f'issuer = "{configured}"' if configured else ""

    assert is_right == provider(settings(tmp_path, "oauth2", lines), http).is_issuer(iss, None)
