"""`BrokerAuth` of httpx and requests and `broker_auth` of aiohttp, each against an API that judges tokens."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import httpx
import pytest
import requests
from aiohttp import web

import broker.client.aiohttp
import broker.client.httpx
import broker.client.requests
from broker.client import Broker, SyncBroker
from broker.client.testing import FakeBroker
from tests.ports import free_port

Request = Callable[..., Awaitable[tuple[int, bytes]]]
"""`await request(method, url, body)`: status and body of the answer, redirects followed."""


@dataclass(slots=True)
class Api:
    """A provider's API: 401 to every token that the fake broker does not hold to be living."""

    fake: FakeBroker
    heard: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    """Path, Authorization and body of each request."""
    moved_to: str = ""
    stubborn: bool = False
    """401 to everything."""

    async def answer(self, request: web.Request) -> web.Response:
        shown, body = request.headers.get("Authorization"), await request.read()
        self.heard.append((request.path, shown, body))
        if request.path == "/moved":
            return web.Response(status=307, headers={"Location": self.moved_to})
        if request.path == "/guarded" and self.fake.accepts(shown):
            return web.Response(status=307, headers={"Location": "/behind"})
        if self.stubborn or not self.fake.accepts(shown):
            return web.Response(status=401, body=b"invalid token")
        return web.Response(body=body or b"fine")


@dataclass(slots=True)
class Stage:
    """The API, another origin, and the broker."""

    fake: FakeBroker
    api: Api
    url: str
    other: Api
    other_url: str


@pytest.fixture(name="stage")
async def _stage(fake_broker: FakeBroker) -> AsyncIterator[Stage]:
    api, other = Api(fake_broker), Api(fake_broker)
    async with _listening(api) as url, _listening(other) as other_url:
        yield Stage(fake_broker, api, url, other, other_url)


@asynccontextmanager
async def _listening(api: Api) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


async def _httpx_async(fake: FakeBroker) -> AsyncIterator[Request]:
    auth = broker.client.httpx.BrokerAuth(Broker(fake.url, key=fake.key, patience=0), "acme")
    async with httpx.AsyncClient(auth=auth, follow_redirects=True) as client:

        async def request(
            method: str, url: str, body: bytes | None = None, *, stream: bool = False
        ) -> tuple[int, bytes]:
            answer = await client.request(method, url, content=_chunks_async(body) if stream else body)
            return answer.status_code, answer.content

        yield request


async def _httpx_sync(fake: FakeBroker) -> AsyncIterator[Request]:
    auth = broker.client.httpx.BrokerAuth(SyncBroker(fake.url, key=fake.key, patience=0), "acme")
    with httpx.Client(auth=auth, follow_redirects=True) as client:

        async def request(
            method: str, url: str, body: bytes | None = None, *, stream: bool = False
        ) -> tuple[int, bytes]:
            content = iter([body or b""]) if stream else body
            answer = await asyncio.to_thread(client.request, method, url, content=content)
            return answer.status_code, answer.content

        yield request


async def _requests(fake: FakeBroker) -> AsyncIterator[Request]:
    auth = broker.client.requests.BrokerAuth(SyncBroker(fake.url, key=fake.key, patience=0), "acme")
    with requests.Session() as session:
        session.auth = auth

        async def request(
            method: str, url: str, body: bytes | None = None, *, stream: bool = False
        ) -> tuple[int, bytes]:
            data = iter([body or b""]) if stream else body
            answer = await asyncio.to_thread(session.request, method, url, data=data, timeout=10)
            return answer.status_code, answer.content

        yield request


async def _aiohttp(fake: FakeBroker) -> AsyncIterator[Request]:
    auth = broker.client.aiohttp.broker_auth(Broker(fake.url, key=fake.key, patience=0), "acme")
    async with aiohttp.ClientSession(middlewares=[auth]) as session:

        async def request(
            method: str, url: str, body: bytes | None = None, *, stream: bool = False
        ) -> tuple[int, bytes]:
            async with session.request(method, url, data=_chunks_async(body) if stream else body) as answer:
                return answer.status, await answer.read()

        yield request


async def _chunks_async(body: bytes | None) -> AsyncIterator[bytes]:
    yield body or b""


KINDS = {"httpx": _httpx_async, "httpx-sync": _httpx_sync, "requests": _requests, "aiohttp": _aiohttp}


@pytest.fixture(name="request_api", params=KINDS)
async def _request_api(request: pytest.FixtureRequest, fake_broker: FakeBroker) -> AsyncIterator[Request]:
    async for made in KINDS[request.param](fake_broker):
        yield made


async def test_token_is_put_on(stage: Stage, request_api: Request) -> None:
    """And one token serves many requests."""
    answers = [await request_api("GET", f"{stage.url}/{number}") for number in range(3)]

    assert [(200, b"fine")] * 3 == answers
    assert {f"Bearer {stage.fake.access_token('acme')}"} == {shown for _, shown, _ in stage.api.heard}
    assert ["GET /token/acme"] == stage.fake.asked


async def test_rejected_token_is_reported_and_the_request_repeated(
    stage: Stage, request_api: Request
) -> None:
    """With its body; the program sees the second answer alone."""
    await request_api("GET", stage.url)
    stage.fake.expire("acme")

    answer = await request_api("POST", f"{stage.url}/things", b"a thing")

    assert (200, b"a thing") == answer
    assert [("/things", b"a thing")] * 2 == [(path, body) for path, _, body in stage.api.heard[1:]]
    assert [("acme", 1)] == stage.fake.reported


async def test_request_is_never_repeated_twice(stage: Stage, request_api: Request) -> None:
    """A second 401 stands."""
    stage.api.stubborn = True

    answer = await request_api("POST", stage.url, b"a thing")

    assert (401, b"invalid token") == answer
    assert 2 == len(stage.api.heard)
    assert [("acme", 1)] == stage.fake.reported


async def test_stream_is_not_repeated_but_reported(stage: Stage, request_api: Request) -> None:
    """What was sent is gone, so its 401 stands; the next request has a new token."""
    await request_api("GET", stage.url)
    stage.fake.expire("acme")

    streamed = await request_api("POST", f"{stage.url}/stream", b"a stream", stream=True)
    following = await request_api("GET", f"{stage.url}/next")

    assert (401, 200) == (streamed[0], following[0])
    assert ["/", "/stream", "/next"] == [path for path, _, _ in stage.api.heard]
    assert [("acme", 1)] == stage.fake.reported


async def test_unrenewed_token_is_no_reason_to_repeat(stage: Stage, request_api: Request) -> None:
    """The API's own answer comes back when the broker has nothing newer."""
    await request_api("GET", stage.url)
    stage.fake.expire("acme")
    stage.fake.refuse("acme", "needs_reauthorization")

    answer = await request_api("GET", stage.url)

    assert (401, b"invalid token") == answer
    assert 2 == len(stage.api.heard)


async def test_crowd_with_a_rejected_token_reports_it_once(stage: Stage, request_api: Request) -> None:
    """Five requests at once, one report, and all five succeed."""
    await request_api("GET", stage.url)
    stage.fake.expire("acme")

    answers = await asyncio.gather(*[request_api("GET", f"{stage.url}/{number}") for number in range(5)])

    assert {(200, b"fine")} == set(answers)
    assert [("acme", 1)] == stage.fake.reported


async def test_redirect_to_another_origin_carries_no_token(stage: Stage, request_api: Request) -> None:
    """And that one's 401 says nothing of the token: nothing is reported, nothing repeated."""
    stage.api.moved_to = f"{stage.other_url}/elsewhere"

    answer = await request_api("GET", f"{stage.url}/moved")

    assert 401 == answer[0]
    assert [("/elsewhere", None, b"")] == stage.other.heard
    assert ([], 1) == (stage.fake.reported, len(stage.api.heard))


async def test_redirect_back_from_another_origin_carries_no_token(stage: Stage, request_api: Request) -> None:
    """Where it leads is that origin's choice, not the program's."""
    stage.api.moved_to = f"{stage.other_url}/moved"
    stage.other.moved_to = f"{stage.url}/back"

    answer = await request_api("GET", f"{stage.url}/moved")

    assert 401 == answer[0]
    assert [("/back", None, b"")] == stage.api.heard[1:]


async def test_token_is_put_on_again_after_a_redirect_went_astray(stage: Stage, request_api: Request) -> None:
    """The next request is the program's own again."""
    stage.api.moved_to = f"{stage.other_url}/elsewhere"
    await request_api("GET", f"{stage.url}/moved")

    answer = await request_api("GET", f"{stage.url}/own")

    assert 200 == answer[0]


async def test_redirect_within_the_origin_carries_the_token(stage: Stage, request_api: Request) -> None:
    """Also the new one, where the old was rejected behind the redirect."""
    await request_api("GET", stage.url)
    stage.api.moved_to = "/here"
    stage.fake.expire("acme")

    answer = await request_api("GET", f"{stage.url}/moved")

    assert 200 == answer[0]
    assert [("acme", 1)] == stage.fake.reported


async def test_repeated_request_is_redirected_with_the_new_token(stage: Stage, request_api: Request) -> None:
    """The API judges first and redirects then: nothing of the old token goes on."""
    await request_api("GET", stage.url)
    stage.fake.expire("acme")

    answer = await request_api("GET", f"{stage.url}/guarded")

    assert 200 == answer[0]
    assert ["/", "/guarded", "/guarded", "/behind"] == [path for path, _, _ in stage.api.heard]


async def test_redirect_within_another_origin_carries_no_token(stage: Stage, request_api: Request) -> None:
    """Once astray, always astray."""
    stage.api.moved_to = f"{stage.other_url}/moved"
    stage.other.moved_to = "/further"

    await request_api("GET", f"{stage.url}/moved")

    assert [("/moved", None), ("/further", None)] == [(path, shown) for path, shown, _ in stage.other.heard]


async def test_httpx_says_which_broker_it_needs(stage: Stage) -> None:
    """An asyncio broker cannot serve a client without a loop; the other way works, in a thread."""
    wrong = broker.client.httpx.BrokerAuth(Broker(stage.fake.url, key=stage.fake.key), "acme")
    right = broker.client.httpx.BrokerAuth(SyncBroker(stage.fake.url, key=stage.fake.key), "acme")

    with httpx.Client(auth=wrong) as client, pytest.raises(TypeError, match="SyncBroker"):
        client.get(stage.url)
    async with httpx.AsyncClient(auth=right) as client:
        await client.get(stage.url)
        stage.fake.expire("acme")
        answer = await client.get(stage.url)

    assert 200 == answer.status_code
