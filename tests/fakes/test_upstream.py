"""The scripted token endpoint sends what it is told and overlooks nothing."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from .upstream import Answer, Cut, Drop, Raw, Stall, Upstream, json_answer

FORM = {"grant_type": "refresh_token", "refresh_token": "r1"}
FORM_TYPE = b"Content-Type: application/x-www-form-urlencoded\r\n"
BODY = b"grant_type=refresh_token"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def send(upstream: Upstream, request: bytes) -> bytes:
    """Everything that comes back for these bytes on a connection of their own, which this side half-closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(upstream.url).port)
    writer.write(request)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def post(*lines: bytes, target: bytes = b"/token", version: bytes = b"HTTP/1.1", body: bytes = BODY) -> bytes:
    head = [b"POST " + target + b" " + version, b"Host: x", *lines, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*head, b"", body])


FORM_LINE = FORM_TYPE.strip()


async def test_answers_come_in_the_order_of_the_script(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    """Each request takes the next answer, and one connection serves them all."""
    upstream.script([json_answer({"access_token": "a1"}), Answer(520, {"Retry-After": "7"}, b"later")])

    async with session.post(upstream.url, data=FORM) as first:
        granted = await first.json()
    async with session.post(upstream.url, data=FORM) as second:
        later = (second.status, second.headers["Retry-After"], await second.read())

    assert granted == {"access_token": "a1"}
    assert later == (520, "7", b"later")
    assert upstream.pending == 0


async def test_a_proper_request_is_noted_and_not_complained_of(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    """What a good client sends is all there, decoded, and breaks no rule."""
    upstream.script([Answer()])

    async with session.post(upstream.url, data=FORM | {"scope": "a b"}, headers={"X-One": "1"}):
        pass

    (request,) = upstream.requests
    assert (request.method, request.path, request.headers["x-one"]) == ("POST", "/token", "1")
    assert request.body == b"grant_type=refresh_token&refresh_token=r1&scope=a+b"
    assert request.form == FORM | {"scope": "a b"}
    assert upstream.violations == []


async def test_a_json_body_is_a_form_too(upstream: Upstream, session: aiohttp.ClientSession) -> None:
    """Providers that take JSON see the same parameters."""
    upstream.script([Answer()])

    async with session.post(upstream.url, json=FORM):
        pass

    assert upstream.requests[0].form == FORM
    assert upstream.violations == []


async def test_a_get_elsewhere_needs_no_body(upstream: Upstream, session: aiohttp.ClientSession) -> None:
    """The same script may answer for an identity address."""
    upstream.script([json_answer({"id": 7})])

    async with session.get(URL(upstream.url).with_path("/me")) as answer:
        seen = await answer.json()

    assert (seen, upstream.requests[0].path, upstream.violations) == ({"id": 7}, "/me", [])


async def test_raw_bytes_are_sent_as_they_are(upstream: Upstream) -> None:
    """Not even HTTP is required of an answer."""
    upstream.script([Raw(b"SSH-2.0-surprise\r\n\x00\xff")])

    assert await send(upstream, post(FORM_LINE)) == b"SSH-2.0-surprise\r\n\x00\xff"


async def test_a_drop_reads_the_request_and_says_nothing(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    """The client cannot know that the request arrived; the record does."""
    upstream.script([Drop()])

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await session.post(upstream.url, data=FORM)

    assert upstream.requests[0].form == FORM


async def test_a_cut_declares_more_than_it_sends(upstream: Upstream) -> None:
    """The declared length is the body's, the bytes are the first few."""
    upstream.script([Cut(200, {"Content-Type": "application/json"}, b'{"access_token":"a1"}', after=5)])

    head, _, body = (await send(upstream, post(FORM_LINE))).partition(b"\r\n\r\n")

    assert b"Content-Length: 21" in head.split(b"\r\n")
    assert body == b'{"acc'


async def test_a_cut_is_an_error_to_a_client(upstream: Upstream, session: aiohttp.ClientSession) -> None:
    """A short body is not taken for a whole one."""
    upstream.script([Cut(body=b'{"access_token":"a1"}', after=5)])

    async with session.post(upstream.url, data=FORM) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_a_stall_lasts_until_it_is_released(upstream: Upstream, session: aiohttp.ClientSession) -> None:
    """The request has arrived and nothing comes; once released, the late answer does, and only that one."""
    upstream.script([Stall(then=json_answer({"access_token": "late"})), Stall()])

    async def ask() -> bytes:
        async with session.post(upstream.url, data=FORM) as answer:
            return await answer.read()

    first = asyncio.create_task(ask())
    await upstream.arrived(1)
    assert not first.done()
    upstream.release()
    assert await first == b'{"access_token": "late"}'

    second = asyncio.create_task(ask())
    await upstream.arrived(2)
    done, _ = await asyncio.wait({second}, timeout=0.05)
    assert not done
    upstream.release()
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await second


async def test_leaving_ends_what_still_stalls() -> None:
    """A test that forgets a stalled client does not hang."""
    async with Upstream() as upstream, aiohttp.ClientSession() as session:
        upstream.script([Stall()])
        asked = asyncio.create_task(session.post(upstream.url, data=FORM))
        await upstream.arrived()
        await asyncio.wait_for(upstream.__aexit__(None, None, None), 60)

        with pytest.raises(aiohttp.ServerDisconnectedError):
            await asked


async def test_a_client_that_gives_up_does_no_harm(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    """The answer to a closed connection is lost in silence and the next client is served."""
    upstream.script([Stall(then=json_answer("x" * 1_000_000)), json_answer({"access_token": "a2"})])

    asked = asyncio.create_task(session.post(upstream.url, data=FORM))
    await upstream.arrived()
    asked.cancel()
    await asyncio.wait({asked})
    upstream.release()
    async with session.post(upstream.url, data=FORM) as answer:
        granted = await answer.json()

    assert granted == {"access_token": "a2"}


async def test_a_connection_ends_where_the_answer_says_so(upstream: Upstream) -> None:
    """After `Connection: close` a second request on the same connection is not read."""
    upstream.script([Answer(headers={"Connection": "close"}), Answer()])

    await send(upstream, post(FORM_LINE) * 2)

    assert (len(upstream.requests), upstream.pending) == (1, 1)


async def test_a_request_beyond_the_script_is_a_violation(upstream: Upstream) -> None:
    """Who asks more often than foreseen gets 500 and an entry."""
    answer = await send(upstream, post(FORM_LINE))

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert upstream.violations == ["nothing is scripted for POST /token"]


@pytest.mark.parametrize(
    ("request_bytes", "violation"),
    [
        (post(FORM_LINE, version=b"HTTP/1.0"), "the request line ends in 'HTTP/1.0', not HTTP/1.1"),
        (
            b"POST /token\r\n" + post(FORM_LINE).partition(b"\r\n")[2],
            "the request line ends in '', not HTTP/1.1",
        ),
        (post(FORM_LINE).replace(b"Host: x\r\n", b""), "host is missing"),
        (post(FORM_LINE, b"Host: y"), "host comes 2 times"),
        (post(FORM_LINE, FORM_LINE), "content-type comes 2 times"),
        (post(body=b""), "content-type is missing"),
        (post(b"Content-Type: text/plain"), "a body of type 'text/plain' is no form"),
        (b"POST /token HTTP/1.1\r\nHost: x\r\n" + FORM_TYPE + b"\r\n", "content-length is missing"),
        (
            b"POST /token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            + FORM_TYPE
            + b"\r\n0\r\n\r\n",
            "transfer-encoding instead of a content-length",
        ),
        (
            post(FORM_LINE, b"Authorization: Basic eDp5", b"Authorization: Basic eDp5"),
            "authorization comes 2 times",
        ),
        (
            post(FORM_LINE, b"Authorization: Basic eDp5", body=BODY + b"&client_secret=s"),
            "both authorization and client_secret: RFC 6749 section 2.3 allows one",
        ),
        (post(FORM_LINE, body=BODY + b"&scope=a&scope=b"), "the parameter scope comes 2 times"),
        (
            post(b"Content-Type: application/json", body=b'{"grant_type":"x","grant_type":"y"}'),
            "the parameter grant_type comes 2 times",
        ),
        (
            post(b"Content-Type: application/json", body=b'{"grant_type":7}'),
            "the body is not application/json: not an object of strings",
        ),
        (post(FORM_LINE, body=b"refresh_token=r1"), "grant_type is missing"),
        (post(FORM_LINE, target=b"/token?a=b"), "parameters in the token endpoint's address"),
        (post(FORM_LINE, target=b"/revoke?client_secret=s"), "client_secret in the address"),
        (b"GET /token HTTP/1.1\r\nHost: x\r\n\r\n", "GET instead of POST"),
    ],
)
async def test_sloppiness_is_noted(upstream: Upstream, request_bytes: bytes, violation: str) -> None:
    """Every rule is watched, and a breach is answered as scripted all the same."""
    upstream.script([Answer(body=b"still answered")])

    answer = await send(upstream, request_bytes)

    assert answer.endswith(b"still answered")
    assert violation in upstream.violations


async def test_a_body_that_is_no_form_is_noted(upstream: Upstream) -> None:
    """Bytes that only claim to be a form are seen through."""
    upstream.script([Answer()])

    await send(upstream, post(FORM_LINE, body=b'{"grant_type":"refresh_token"}'))

    assert upstream.violations[0].startswith("the body is not application/x-www-form-urlencoded")
