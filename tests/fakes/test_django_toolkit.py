"""django-oauth-toolkit behaves as the flow tests rely on, seen with plain aiohttp."""

import asyncio
import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from .django_toolkit import DjangoToolkit, TokenRequest, Tokens, approve, start

pytestmark = pytest.mark.slow

REDIRECT_URI = "http://127.0.0.1:9/callback"
VERIFIER = "v" * 43
CHALLENGE = urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}


@dataclass(frozen=True)
class App:
    """A client that talks to the server as RFC 6749 says."""

    server: DjangoToolkit
    session: aiohttp.ClientSession

    async def authorized(self, **further: str) -> URL:
        asked = {"response_type": "code", "client_id": self.server.client_id, "redirect_uri": REDIRECT_URI}
        address = URL(self.server.authorize_url).with_query(
            asked | {"state": "s1", "scope": "read"} | further
        )
        return URL(await approve(self.session, str(address)))

    async def token(self, **fields: str) -> tuple[int, dict[str, Any]]:
        client = {"client_id": self.server.client_id, "client_secret": self.server.client_secret}
        async with self.session.post(self.server.token_url, data=client | fields) as answer:
            return answer.status, await answer.json()

    async def exchange(self, **fields: str) -> tuple[int, dict[str, Any]]:
        code = (await self.authorized(**PKCE)).query["code"]
        return await self.token(
            grant_type="authorization_code", code=code, redirect_uri=REDIRECT_URI, **fields
        )

    async def connect(self) -> dict[str, Any]:
        return (await self.exchange(code_verifier=VERIFIER))[1]

    async def refresh(self, token: str) -> tuple[int, dict[str, Any]]:
        return await self.token(grant_type="refresh_token", refresh_token=token)

    async def identity(self, access_token: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {access_token}"}
        async with self.session.get(self.server.identity_url, headers=headers) as answer:
            return answer.status, await answer.text()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DjangoToolkit]:
    server = start(tmp_path, REDIRECT_URI, access_life=1234)
    yield server
    server.stop()


@pytest.fixture
async def app(server: DjangoToolkit) -> AsyncIterator[App]:
    async with aiohttp.ClientSession() as session:
        yield App(server, session)


async def test_a_person_approves_and_the_code_becomes_a_token(app: App) -> None:
    """The code flow with PKCE gives a token of the configured life that opens /me."""
    back = await app.authorized(**PKCE)
    status, granted = await app.token(
        grant_type="authorization_code",
        code=back.query["code"],
        redirect_uri=REDIRECT_URI,
        code_verifier=VERIFIER,
    )
    seen = await app.identity(granted["access_token"])

    assert back.query["state"] == "s1"
    assert (status, granted["expires_in"]) == (200, 1234)
    assert seen == (200, '{"id": "1", "name": "ada"}')


async def test_the_verifier_matters(app: App) -> None:
    """A code with another verifier is worth nothing."""
    status, refusal = await app.exchange(code_verifier="w" * 43)

    assert (status, refusal["error"]) == (400, "invalid_grant")
    assert Tokens(live=0, revoked=0) == app.server.tokens()


async def test_a_request_without_pkce_is_sent_back(app: App) -> None:
    """pkce_required is on unless a test turns it off."""
    back = await app.authorized()

    assert back.query["error"] == "invalid_request"


async def test_pkce_can_be_optional(tmp_path: Path) -> None:
    """A server started without the requirement gives a code for a plain request."""
    server = start(tmp_path, REDIRECT_URI, pkce_required=False)

    try:
        async with aiohttp.ClientSession() as session:
            back = await App(server, session).authorized()
    finally:
        server.stop()

    assert {"code", "state"} == set(back.query)


async def test_a_refresh_rotates(app: App) -> None:
    """The answer holds a new pair; the old access token dies at once."""
    first = await app.connect()

    status, second = await app.refresh(first["refresh_token"])

    assert status == 200
    assert second["refresh_token"] != first["refresh_token"]
    assert (await app.identity(first["access_token"]))[0] == 401
    assert (await app.identity(second["access_token"]))[0] == 200
    assert Tokens(live=1, revoked=1) == app.server.tokens()


async def test_a_replay_kills_the_family(app: App) -> None:
    """A used refresh token is refused, and after that the one that took its place is refused too."""
    first = await app.connect()
    _, second = await app.refresh(first["refresh_token"])

    replayed = await app.refresh(first["refresh_token"])
    afterwards = await app.refresh(second["refresh_token"])

    assert [(status, body["error"]) for status, body in (replayed, afterwards)] == [
        (400, "invalid_grant")
    ] * 2
    assert (await app.identity(second["access_token"]))[0] == 401
    assert Tokens(live=0, revoked=2) == app.server.tokens()


async def test_a_family_dies_alone(app: App) -> None:
    """Another grant of the same client outlives the replay."""
    first = await app.connect()
    other = await app.connect()
    await app.refresh(first["refresh_token"])
    await app.refresh(first["refresh_token"])

    status, _ = await app.refresh(other["refresh_token"])

    assert status == 200
    assert Tokens(live=1, revoked=3) == app.server.tokens()


async def test_a_restart_keeps_the_grants(app: App) -> None:
    """While it is away connections are refused; then the same port takes the same refresh token."""
    granted = await app.connect()

    app.server.pause()
    with pytest.raises(aiohttp.ClientConnectorError):
        await app.refresh(granted["refresh_token"])
    app.server.restart()
    status, _ = await app.refresh(granted["refresh_token"])

    assert status == 200
    assert [
        TokenRequest("authorization_code", 200),
        TokenRequest("refresh_token", 200),
    ] == app.server.requests()


async def test_a_crowd_is_served_together(app: App) -> None:
    """Twelve grants are renewed at the same time, and each is counted."""
    grants = [await app.connect() for _ in range(12)]

    answers = await asyncio.gather(*[app.refresh(grant["refresh_token"]) for grant in grants])

    assert [status for status, _ in answers] == [200] * 12
    assert app.server.refresh_count() == 12


async def test_revocation_ends_a_grant(app: App) -> None:
    """RFC 7009: a revoked refresh token is dead, and so is its access token."""
    granted = await app.connect()
    client = {"client_id": app.server.client_id, "client_secret": app.server.client_secret}

    async with app.session.post(
        app.server.revoke_url, data=client | {"token": granted["refresh_token"]}
    ) as answer:
        status = answer.status

    assert status == 200
    assert (await app.identity(granted["access_token"]))[0] == 401
    assert Tokens(live=0, revoked=1) == app.server.tokens()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The child's last words are in the error."""
    (tmp_path / "django_toolkit" / "django.db").mkdir(parents=True)

    with pytest.raises(RuntimeError, match=re.escape("unable to open database file")):
        start(tmp_path, REDIRECT_URI)
