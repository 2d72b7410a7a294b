"""A client that nobody here wrote: oauthlib's, which requests-oauthlib is made of, over requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import requests
from oauthlib.oauth2 import InvalidGrantError, WebApplicationClient
from requests.auth import HTTPBasicAuth

from tests.plugin.driving import INSTALL, Stand, open_stand

pytestmark = pytest.mark.asyncio(loop_scope="module")
CLIENT_ID, SECRET = "kit-client", "the-new-secret"
HTTPS = "https://broker.example.com"
"""The library speaks to nothing else; a proxy, as it were, brings it to the house."""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="stand")
async def _stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with open_stand(tmp_path_factory.mktemp("oauthlib") / "house") as stand:
        yield stand


async def post(url: str, body: str, headers: dict[str, str], auth: HTTPBasicAuth | None = None) -> Any:
    """In a thread, as requests blocks."""
    call: Callable[..., requests.Response] = requests.post
    return await asyncio.to_thread(call, url, data=body, headers=headers, auth=auth, timeout=10)


@pytest.mark.parametrize("pkce", [False, True])
@pytest.mark.parametrize("way", ["basic", "post"])
async def test_code_token_refresh_revoke(stand: Stand, way: str, pkce: bool) -> None:
    """The whole life of a grant as the library speaks it: its requests are taken, its checks are passed."""
    client, public = WebApplicationClient(CLIENT_ID), stand.house.public
    auth = HTTPBasicAuth(CLIENT_ID, SECRET) if way == "basic" else None
    proof = {} if way == "basic" else {"client_secret": SECRET}
    asked: dict[str, str] = {}
    if pkce:
        client.create_code_verifier(64)
        asked = {
            "code_challenge": client.create_code_challenge(client.code_verifier, "S256"),
            "code_challenge_method": "S256",
        }
    url = client.prepare_request_uri(
        f"{HTTPS}/plugin/authorize", redirect_uri=INSTALL, state="the-state", **asked
    )

    question = await stand.person.open(url.replace(HTTPS, public))
    answered = await stand.person.decide(await after_sign_in(stand, question.location))
    client.parse_request_uri_response(answered.location, state="the-state")
    body = client.prepare_request_body(
        redirect_uri=INSTALL, code_verifier=client.code_verifier if pkce else None, **proof
    )
    first = await post(f"{public}/plugin/token", body, FORM, auth)
    tokens = dict(client.parse_request_body_response(first.text))
    renewal = client.prepare_refresh_body(refresh_token=tokens["refresh_token"], client_id=CLIENT_ID)
    second = await post(f"{public}/plugin/refresh", renewal, FORM)
    renewed = dict(client.parse_request_body_response(second.text))
    address, headers, ending = client.prepare_token_revocation_request(
        f"{HTTPS}/plugin/revoke",
        renewed["access_token"],
        **({"client_id": CLIENT_ID} | proof if proof else {}),
    )
    gone = await post(address.replace(HTTPS, public), ending, {**headers, **FORM}, auth)
    after = await post(f"{public}/plugin/refresh", renewal, FORM)

    assert ("Bearer", 172800) == (tokens["token_type"], tokens["expires_in"])
    assert (200, 200, 200, {}) == (first.status_code, second.status_code, gone.status_code, gone.json())
    assert renewed["refresh_token"] != tokens["refresh_token"]
    with pytest.raises(InvalidGrantError):
        client.parse_request_body_response(after.text)


async def after_sign_in(stand: Stand, location: str) -> Any:
    """The question, for a person who has signed in at the company's app."""
    challenge = location.partition("login_challenge=")[2]
    form = {"login_challenge": challenge, "login_as": "user-42"}
    signed = await stand.person.open(location, "POST", data=form)
    back = await stand.person.open(signed.location)
    return await stand.person.open(f"{stand.house.public}{back.location}")
