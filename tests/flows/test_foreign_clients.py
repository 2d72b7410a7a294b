"""Clients that nobody here wrote: Authlib's over httpx and requests-oauthlib's session, code to revocation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import requests
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuthError
from oauthlib.oauth2 import InvalidGrantError
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from tests.flows.test_oauthlib import CLIENT_ID, HTTPS, SECRET, after_sign_in
from tests.plugin.driving import INSTALL, Stand, open_stand

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="stand")
async def _stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with open_stand(tmp_path_factory.mktemp("foreign") / "house") as stand:
        yield stand


class Proxy(HTTPAdapter):
    """Brings requests for an https address to the house, as a proxy before it does."""

    def __init__(self, public: str) -> None:
        super().__init__()
        self._public = public

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        request.url = (request.url or "").replace(HTTPS, self._public)
        return super().send(request, *args, **options)


async def allowed(stand: Stand, url: str) -> str:
    """Where the browser is sent when the person has signed in and allowed it."""
    question = await stand.person.open(url.replace(HTTPS, stand.house.public))
    answered = await stand.person.decide(await after_sign_in(stand, question.location))
    return answered.location


@pytest.mark.parametrize("pkce", [None, "S256"])
@pytest.mark.parametrize("way", ["client_secret_basic", "client_secret_post"])
async def test_authlib_runs_a_whole_grant(stand: Stand, way: str, pkce: str | None) -> None:
    """Each way of client authentication, with and without PKCE; the token that was revoked is refused."""
    public = stand.house.public
    async with AsyncOAuth2Client(
        CLIENT_ID,
        SECRET,
        token_endpoint_auth_method=way,
        revocation_endpoint_auth_method=way,
        redirect_uri=INSTALL,
        code_challenge_method=pkce,
    ) as client:
        verifier = {"code_verifier": "v" * 64} if pkce else {}
        url, state = client.create_authorization_url(f"{HTTPS}/plugin/authorize", **verifier)

        back = await allowed(stand, url)
        tokens = await client.fetch_token(
            f"{public}/plugin/token", authorization_response=back, state=state, **verifier
        )
        renewed = await client.refresh_token(f"{public}/plugin/refresh", tokens["refresh_token"])
        gone: httpx.Response = await client.revoke_token(
            f"{public}/plugin/revoke", token=renewed["access_token"]
        )

        assert ("Bearer", 172800) == (tokens["token_type"], tokens["expires_in"])
        assert renewed["refresh_token"] != tokens["refresh_token"]
        assert (200, {}) == (gone.status_code, gone.json())
        with pytest.raises(OAuthError, match="invalid_grant"):
            await client.refresh_token(f"{public}/plugin/refresh", renewed["refresh_token"])


@pytest.mark.parametrize("way", ["basic", "body"])
async def test_requests_oauthlib_runs_a_whole_grant(stand: Stand, way: str) -> None:
    """Basic, or the secret in the body; it has no revocation of its own, so its session posts."""
    session = OAuth2Session(CLIENT_ID, redirect_uri=INSTALL)
    session.mount(HTTPS, Proxy(stand.house.public))
    url, _ = session.authorization_url(f"{HTTPS}/plugin/authorize")
    proof: dict[str, Any] = {"include_client_id": True, "client_secret": SECRET}
    if way == "basic":
        proof = {"auth": HTTPBasicAuth(CLIENT_ID, SECRET)}

    back = await allowed(stand, url)
    tokens = await asyncio.to_thread(
        session.fetch_token, f"{HTTPS}/plugin/token", authorization_response=back, **proof
    )
    renewed = await asyncio.to_thread(
        session.refresh_token,
        f"{HTTPS}/plugin/refresh",
        refresh_token=tokens["refresh_token"],
        client_id=CLIENT_ID,
        client_secret=SECRET,
    )
    gone = await asyncio.to_thread(
        session.post,
        f"{HTTPS}/plugin/revoke",
        data={"token": renewed["access_token"], "client_id": CLIENT_ID, "client_secret": SECRET},
        withhold_token=True,
    )

    assert ("Bearer", 172800) == (tokens["token_type"], tokens["expires_in"])
    assert renewed["refresh_token"] != tokens["refresh_token"]
    assert (200, {}) == (gone.status_code, gone.json())
    with pytest.raises(InvalidGrantError):
        await asyncio.to_thread(
            session.refresh_token,
            f"{HTTPS}/plugin/refresh",
            refresh_token=renewed["refresh_token"],
            client_id=CLIENT_ID,
            client_secret=SECRET,
        )
