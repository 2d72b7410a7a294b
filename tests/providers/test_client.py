"""Phases and limits of talking to a provider, over real sockets; how each kind of provider asks."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from broker.admin.store_checks import providers
from broker.clock import SystemClock
from broker.config import load
from broker.config.settings import OAuthClient, ProviderSettings
from broker.errors import InvalidRequest
from broker.model import Secret
from broker.providers.client import ProviderClient
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import (
    Ambiguous,
    Declined,
    Grant,
    Granted,
    Identified,
    IdentityLater,
    IdentityUnknown,
    NotSent,
    Paused,
    TokenOutcome,
    TokenRequest,
    cause_of,
)
from tests.fakes.upstream import Answer, Cut, Drop, Raw, Scripted, Stall, Upstream, json_answer
from tests.ports import free_port

SECRET, REFRESH = "canary-client-secret", "canary-refresh-token"
REQUEST = TokenRequest(Grant.REFRESH, Secret(REFRESH), "c")
UNUSED: Any = None
TOKENS = {"access_token": "at", "refresh_token": "rt", "expires_in": 100}


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


def settings(tmp_path: Path, kind: str = "oauth2", **keys: object) -> ProviderSettings:
    """Provider settings as a configuration file gives them."""
    usual: dict[str, object] = {"type": kind, "client_id": "c", "client_secret": SECRET}
    if kind == "oauth2":
        usual |= {"authorize_url": "https://x.example/a", "token_url": "https://x.example/t"}
    lines = [f"{name} = {_toml(value)}" for name, value in (usual | keys).items() if value is not None]
    (tmp_path / "config.toml").write_text("[providers.p]\n" + "\n".join(lines))
    return load(tmp_path / "config.toml", environ={}).providers["p"]


def _toml(value: object) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else repr(value)
        if isinstance(value, list)
        else f'"{value}"'
    )


def provider(one: ProviderSettings, http: ProviderClient, *, timeout: float = 5.0) -> OAuth2Provider:
    return OAuth2Provider(settings=one, http=http, clock=SystemClock(), timeout=timeout)


class Announced:
    """Counts how often the moment before sending came."""

    def __init__(self, error: Exception | None = None) -> None:
        self.times = 0
        self._error = error

    async def __call__(self) -> None:
        self.times += 1
        if self._error is not None:
            raise self._error


async def ask(
    tmp_path: Path,
    http: ProviderClient,
    url: str,
    announced: Announced | None = None,
    *,
    timeout: float = 5.0,
) -> TokenOutcome:
    one = provider(settings(tmp_path, token_url=url), http, timeout=timeout)
    return await one.request_token(REQUEST, before_send=announced or Announced())


async def test_connection_refused_is_not_sent(tmp_path: Path, http: ProviderClient) -> None:
    """And nothing was announced."""
    announced = Announced()

    outcome = await ask(tmp_path, http, f"http://127.0.0.1:{free_port()}/t", announced)

    assert isinstance(outcome, NotSent)
    assert 0 == announced.times


async def test_announcement_that_fails_sends_nothing(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """The lease was lost: connected, and not a byte left."""
    with pytest.raises(LookupError):
        await ask(tmp_path, http, upstream.url, Announced(LookupError()))

    assert [] == upstream.requests


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (Drop(), Ambiguous),
        (Raw(b"not http at all\r\n\r\n"), Ambiguous),
        (Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"), Ambiguous),
        (Answer(200, {"Content-Type": "application/json"}, b"x" * 70_000), Ambiguous),
        (Answer(500, {}, b"<html>"), Ambiguous),
        (Answer(429, {"Retry-After": "5"}, b""), Paused),
        (Answer(307, {"Location": "http://127.0.0.1:1/elsewhere"}, b""), Declined),
        (Answer(200, {"Content-Encoding": "gzip"}, b"\x1f\x8bnot really"), Ambiguous),
        (json_answer(TOKENS), Granted),
    ],
)
async def test_outcome_on_the_wire(
    tmp_path: Path, http: ProviderClient, upstream: Upstream, script: Answer | Raw | Drop, outcome: type
) -> None:
    """One announcement, one request, one outcome."""
    announced = Announced()
    upstream.script([script])

    found = await ask(tmp_path, http, upstream.url, announced)

    assert outcome is type(found)
    assert (1, 1) == (announced.times, len(upstream.requests))
    assert not any(canary in repr(found) for canary in (SECRET, REFRESH))


async def test_own_timeout_is_told_apart(tmp_path: Path, http: ProviderClient, upstream: Upstream) -> None:
    """After it the provider may still be at work: a longer quarantine."""
    upstream.script([Stall()])

    outcome = await ask(tmp_path, http, upstream.url, timeout=0.2)
    upstream.release()

    assert isinstance(outcome, Ambiguous)
    assert outcome.timed_out


async def test_cut_answer_gives_up_its_refresh_token(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """What came whole before the cut is salvaged."""
    body = b'{"refresh_token":"rt-salvaged","access_token":"at","expires_in":100}'
    upstream.script([Cut(200, {"Content-Type": "application/json"}, body, after=40)])

    outcome = await ask(tmp_path, http, upstream.url)

    assert isinstance(outcome, Ambiguous)
    assert Secret("rt-salvaged") == outcome.salvage


async def test_each_request_has_a_connection_of_its_own(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """So a server that closes an idle one harms nobody."""
    announced = Announced()
    upstream.script([json_answer(TOKENS)] * 3)

    for _ in range(3):
        assert isinstance(await ask(tmp_path, http, upstream.url, announced), Granted)

    assert 3 == announced.times
    assert {"close"} == {request.headers["connection"].lower() for request in upstream.requests}
    assert all(request.headers["user-agent"].startswith("token-broker/") for request in upstream.requests)


@pytest.mark.parametrize("body", ["form", "json"])
@pytest.mark.parametrize("auth", ["post", "basic", "none"])
async def test_client_authentication(
    tmp_path: Path, http: ProviderClient, upstream: Upstream, body: str, auth: str
) -> None:
    """One method at a time, in either encoding."""
    upstream.script([json_answer(TOKENS)])
    one = settings(tmp_path, token_url=upstream.url, body=body, client_auth=auth)

    await provider(one, http).request_token(REQUEST, before_send=Announced())

    [request] = upstream.requests
    basic = "Basic " + base64.b64encode(f"c:{SECRET}".encode()).decode()
    expected = {"post": (None, SECRET, "c"), "basic": (basic, None, None), "none": (None, None, "c")}[auth]
    assert expected == (
        request.headers.get("authorization"),
        request.form.get("client_secret"),
        request.form.get("client_id"),
    )
    assert ("refresh_token", REFRESH) == (request.form["grant_type"], request.form["refresh_token"])
    wanted = {"form": "application/x-www-form-urlencoded", "json": "application/json"}[body]
    assert wanted == request.headers["content-type"]


@pytest.mark.parametrize(
    ("auth", "secret", "pair"),
    [
        ("basic", "a+b/c=&:é", "c:a%2Bb%2Fc%3D%26%3A%C3%A9"),
        ("basic-raw", "a+b/c=&:", "c:a+b/c=&:"),
        ("basic-raw", "100%", "c:100%"),
    ],
)
async def test_basic_credentials_are_encoded_or_raw(
    tmp_path: Path, http: ProviderClient, upstream: Upstream, auth: str, secret: str, pair: str
) -> None:
    """RFC 6749 2.3.1 says form-encoded; some providers decode nothing."""
    upstream.script([json_answer(TOKENS)])
    one = settings(tmp_path, token_url=upstream.url, client_auth=auth)
    one = replace(one, client=OAuthClient("c", (Secret(secret),)))

    await provider(one, http).request_token(REQUEST, before_send=Announced())

    [request] = upstream.requests
    assert "Basic " + base64.b64encode(pair.encode()).decode() == request.headers["authorization"]
    assert "client_secret" not in request.form


@pytest.mark.parametrize(
    "description",
    [f"Refresh token invalid: {REFRESH}. Visit", f"Wrong secret {SECRET}", f"key {'k3' * 20}\r\nX-Evil: 1"],
)
async def test_providers_text_is_told_without_our_secrets(
    tmp_path: Path, http: ProviderClient, upstream: Upstream, description: str
) -> None:
    """Some quote in their errors what they were sent."""
    upstream.script([json_answer({"error": "invalid_scope", "error_description": description}, 400)])

    outcome = await provider(settings(tmp_path, token_url=upstream.url), http).request_token(
        REQUEST, before_send=Announced()
    )

    assert isinstance(outcome, Declined)
    cause = cause_of(outcome)
    assert cause.startswith("answered 400 (invalid_scope): ")
    assert "…" in cause
    assert cause.isprintable()
    assert not any(word in cause for word in (REFRESH, SECRET, "k3k3"))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:{port}/token", "Connection refused"),
        ("https://nowhere.invalid/token", "no connection ("),
    ],
)
async def test_what_failed_below_http_is_told(
    tmp_path: Path, http: ProviderClient, url: str, why: str
) -> None:
    """In the words of the library that knows."""
    address = url.format(port=free_port())

    outcome = await provider(settings(tmp_path, token_url=address), http).request_token(
        REQUEST, before_send=Announced()
    )

    assert isinstance(outcome, NotSent)
    assert why in outcome.why
    assert "Client" not in outcome.why


async def test_code_goes_with_verifier_and_secret(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """PKCE and a secret together, and the very redirect URI of the authorization."""
    upstream.script([json_answer(TOKENS)])
    one = provider(settings(tmp_path, token_url=upstream.url), http)
    request = TokenRequest(
        Grant.CODE,
        Secret("code-1"),
        "c",
        redirect_uri="https://b.example/callback/p",
        verifier=Secret("v" * 64),
    )

    await one.request_token(request, before_send=Announced())

    form = upstream.requests[0].form
    assert ("code-1", "v" * 64, SECRET, "https://b.example/callback/p", "authorization_code") == (
        form["code"],
        form["code_verifier"],
        form["client_secret"],
        form["redirect_uri"],
        form["grant_type"],
    )


async def test_grant_is_renewed_with_the_client_that_minted_it(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """An older client's id and secret go with an older client's grant; the second secret where it is asked for."""
    upstream.script([json_answer(TOKENS)] * 2)
    one = settings(tmp_path, token_url=upstream.url)
    old = OAuthClient("old", (Secret("old-1"), Secret("old-2")))
    both = provider(replace(one, previous_clients=(old,)), http)

    for index in (0, 1):
        await both.request_token(
            replace(REQUEST, client_id="old", secret_index=index), before_send=Announced()
        )

    sent = [(request.form["client_id"], request.form["client_secret"]) for request in upstream.requests]
    assert [("old", "old-1"), ("old", "old-2")] == sent
    assert both.knows_client("old")
    assert not both.knows_client("stranger")


@pytest.mark.parametrize(
    ("kind", "keys", "authorize", "token"),
    [
        ("kit", {}, "https://app.kit.com/oauth/authorize", "https://app.kit.com/oauth/token"),
        (
            "kit",
            {"endpoints": "v4"},
            "https://api.kit.com/v4/oauth/authorize",
            "https://api.kit.com/v4/oauth/token",
        ),
        (
            "kustomer",
            {},
            "https://api.apps.kustomerapp.com/oauth/authorize",
            "https://api.apps.kustomerapp.com/oauth/token",
        ),
        (
            "kustomer",
            {"endpoints": "org"},
            "https://acme.kustomerapp.com/oauth/authorize",
            "https://{org}.api.kustomerapp.com/oauth/token",
        ),
    ],
)
async def test_endpoint_sets(
    tmp_path: Path, http: ProviderClient, kind: str, keys: dict[str, object], authorize: str, token: str
) -> None:
    """As the seeds name them, and as the vendors do today."""
    one = provider(settings(tmp_path, kind, **keys), http)

    url = one.authorize_url(
        redirect_uri="https://b.example/cb",
        state=Secret("s"),
        verifier=Secret("v"),
        org="acme",
        account="acme",
    )

    assert (authorize, token) == (url.partition("?")[0], one.token_url)


async def test_authorization_request(tmp_path: Path, http: ProviderClient) -> None:
    """State, PKCE, scopes once encoded, and Kit's tenant for a named connection."""
    kit = provider(settings(tmp_path, "kit", scopes=["a", "b"]), http)

    url = kit.authorize_url(
        redirect_uri="https://b.example/cb",
        state=Secret("s1"),
        verifier=Secret("v"),
        org=None,
        account="acme",
    )

    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert ("code", "s1", "a b", "S256", "acme") == (
        query["response_type"],
        query["state"],
        query["scope"],
        query["code_challenge_method"],
        query["tenant_name"],
    )


@pytest.mark.parametrize(
    "org", [None, "", "ACME", "a.b", "a/b", "-a", "a-", "a" * 64, "ü", "a\n", "evil.example/"]
)
async def test_org_is_a_host_label(tmp_path: Path, http: ProviderClient, org: str | None) -> None:
    """What a person types must not choose another host."""
    one = provider(settings(tmp_path, "kustomer", endpoints="org"), http)

    with pytest.raises(InvalidRequest):
        one.authorize_url(redirect_uri="x", state=Secret("s"), verifier=Secret("v"), org=org, account=None)


async def test_host_made_from_an_org_must_be_public(tmp_path: Path, http: ProviderClient) -> None:
    """A name that leads to a private address is not connected to."""
    port = free_port()
    url = f"https://{{org}}.localhost:{port}/t"
    one = provider(settings(tmp_path, token_url=url), http)

    outcome = await one.request_token(replace(REQUEST, org="acme"), before_send=Announced())

    assert isinstance(outcome, NotSent)


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("kit", {"account": {"id": 29, "name": "Kit Greetings"}}, ("29", "Kit Greetings")),
        ("kit", {"account": {"id": 29, "name": "", "primary_email_address": "a@b.c"}}, ("29", "a@b.c")),
        ("kit", {"account": {"id": 29}}, ("29", "Kit account 29")),
        ("kustomer", {"data": {"id": "u", "relationships": {"org": {"data": {"id": "o"}}}}}, ("o", None)),
        ("kustomer", {"data": {"id": "u", "attributes": {"displayName": "N"}}}, ("u", "N")),
    ],
)
async def test_identity(
    tmp_path: Path,
    http: ProviderClient,
    upstream: Upstream,
    kind: str,
    body: dict[str, object],
    expected: tuple[str, str | None],
) -> None:
    """Whose grant it is, in each provider's words."""
    upstream.script([json_answer(body)])
    one = provider(settings(tmp_path, kind, identity_url=upstream.url.replace("/token", "/me")), http)

    outcome = await one.identify(Secret("at"), org=None)

    assert isinstance(outcome, Identified)
    assert expected == (outcome.identity.external_id, outcome.identity.label)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (json_answer({"account": {}}), IdentityUnknown),
        (json_answer({"account": {"id": True}}), IdentityUnknown),
        (json_answer([]), IdentityUnknown),
        (Answer(401, {}, b"{}"), IdentityUnknown),
        (Answer(404, {}, b""), IdentityUnknown),
        (Answer(302, {"Location": "/login"}, b""), IdentityUnknown),
        (Answer(304, {}, b""), IdentityUnknown),
        (Answer(204, {}, b""), IdentityUnknown),
        (Answer(200, {}, b""), IdentityUnknown),
        (Answer(200, {"Content-Encoding": "br"}, b"\xff" * 50), IdentityUnknown),
        (json_answer({"account": {"id": 1}, "x": "y" * 200_000}), IdentityUnknown),
        (json_answer({"account": {"id": "y" * 5_000}}), IdentityUnknown),
        (Raw(b"HTTP/1.1 200 OK\r\nX Y: z\r\n\r\n<html>"), IdentityUnknown),
        (Raw(b"HTTP/1.1 302 Found\r\nX Y: z\r\nContent-Length: 0\r\n\r\n"), IdentityUnknown),
        (json_answer({"account": {"id": "y" * 4_096}}), Identified),
        (json_answer({"account": {"id": 1}}, 201), Identified),
        (Answer(200, {}, '{"account":{"id":"é"}}'.encode("utf-16")), Identified),
        (Raw(b'HTTP/1.1 200 OK\r\nX Y: z\r\nContent-Length: 20\r\n\r\n{"account":{"id":7}}'), Identified),
        (Answer(500, {}, b""), IdentityLater),
        (Answer(429, {}, b""), IdentityLater),
        (Answer(503, {}, b""), IdentityLater),
        (Drop(), IdentityLater),
    ],
)
async def test_identity_that_cannot_be_had(
    tmp_path: Path, http: ProviderClient, upstream: Upstream, script: Scripted, outcome: type
) -> None:
    """A 4xx or an answer without an id is final; the rest is asked again."""
    # A GET is repeated once by the HTTP client when its connection drops.
    upstream.script([script, script])
    one = provider(settings(tmp_path, "kit", identity_url=upstream.url.replace("/token", "/me")), http)

    assert outcome is type(await one.identify(Secret("at"), org=None))


async def test_known_grace_shortens_the_timeout(
    tmp_path: Path, http: ProviderClient, upstream: Upstream
) -> None:
    """What comes after 60 % of the grace is of no use."""
    upstream.script([Stall()])
    one = settings(tmp_path, token_url=upstream.url, rotation="grace", grace="1s")

    outcome = await provider(one, http, timeout=75).request_token(REQUEST, before_send=Announced())
    upstream.release()

    assert isinstance(outcome, Ambiguous)
    assert outcome.timed_out


async def test_connection_is_closed_where_the_intent_is_refused(http: ProviderClient) -> None:
    """Nothing was sent, and nothing stays open: lost races would use up the process's files."""
    ended = asyncio.Event()

    async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"" == await reader.read()
        writer.close()
        ended.set()

    async def refuse() -> None:
        raise LookupError("another has the lease")

    async with await asyncio.start_server(until_end, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"

        with pytest.raises(LookupError):
            await http.post(url, data=b"", headers={}, timeout=5, before_send=refuse, public_only=False)
        async with asyncio.timeout(60):
            await ended.wait()

    assert ended.is_set()


PROXY = "http://127.0.0.1:1"
"""Nobody listens there."""


@pytest.mark.parametrize(
    ("keys", "route"),
    [
        ({}, ""),
        ({"proxy": PROXY.replace("//", "//u:canary@")}, f"through the proxy {PROXY}"),
        ({"proxy": PROXY, "no_proxy": ["x.example"]}, "directly"),
        ({"proxy": PROXY, "token_url": "https://{org}.y.example/t"}, f"through the proxy {PROXY}"),
        ({"proxy": PROXY, "token_url": "http://127.0.0.1:1/t"}, "directly"),
        ({"no_proxy": ["x.example"]}, ""),
    ],
)
def test_way_to_a_provider(tmp_path: Path, keys: dict[str, Any], route: str) -> None:
    """In words, without a password."""
    one = settings(tmp_path, **keys)

    assert route == OAuth2Provider(settings=one, http=UNUSED, clock=SystemClock(), timeout=1.0).route


async def test_check_says_which_way_it_went(tmp_path: Path, http: ProviderClient) -> None:
    """Whoever reads that a provider cannot be reached must know where to look."""
    one = provider(settings(tmp_path, proxy=PROXY, token_url="https://x.example/t"), http)

    [check] = [check async for check in providers({"p": one})]

    assert check.detail.startswith(f"not reached (through the proxy {PROXY}): ")
