"""`GET /events`: what the caller may see, as it happens, again behind a number, and an end when it must end."""

import asyncio
import socket
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from broker.admin.routes import operator
from broker.alerts.routes import Feed, Streams
from broker.http.edge import CALLER
from broker.model import Caller, Event, EventKind, Permission
from tests.alerts.conftest import happen
from tests.alerts.streams import open_stream
from tests.fakes.clock import FakeClock
from tests.house import House


async def test_events_come_as_they_happen(house: House) -> None:
    """From now on, with id and name, in the shape of the API."""
    await happen(house, "before")

    async with open_stream(house) as stream:
        await house.connect()
        await house.post("/token/acme/refresh")
        await stream.beat()

    assert [("connected", "acme"), ("renewed", "acme")] == stream.told
    members = {"id", "at", "event", "account", "provider", "reason", "what_to_do", "generation"}
    assert members == set(stream.messages[0][1])
    assert stream.last_id == str(stream.messages[-1][1]["id"])


async def test_stream_goes_on_behind_the_last_event_id(house: House) -> None:
    """Each once, over a restart of the broker too."""
    async with open_stream(house) as first:
        await happen(house, "a", "b")
        await first.beat()
    await house.restart()
    await happen(house, "c")

    async with open_stream(house, last_id=first.last_id) as second:
        await happen(house, "d")
        await second.beat()

    assert [("connected", name) for name in "ab"] == first.told
    assert [("connected", name) for name in "cd"] == second.told


async def test_stream_without_an_event_knows_where_it_is(house: House) -> None:
    """A reader that comes again misses nothing, even if it had heard nothing yet."""
    async with open_stream(house) as first:
        await first.beat()
    await happen(house, "meanwhile")

    async with open_stream(house, last_id=first.last_id) as second:
        await second.beat()

    assert [("connected", "meanwhile")] == second.told


async def test_long_replay_comes_whole(house: House) -> None:
    """Page by page, in order."""
    for _ in range(5):
        await happen(house, *(f"acme-{number}" for number in range(73)))

    async with open_stream(house, last_id="0") as stream:
        await stream.beat(0)

    assert list(range(1, 366)) == [data["id"] for _, data in stream.messages]


async def test_gap_is_said(house: House) -> None:
    """Events that are not kept any more, and numbers that were never given."""
    await happen(house, "a", "b", "c")
    store = house.broker.context.stores.events
    await store.purge_events(house.clock.now() + 1, 2)
    await happen(house, "d")

    async with open_stream(house, last_id="1") as old, open_stream(house, last_id="99") as odd:
        await old.beat()
        await odd.beat()

    assert {"event": "gap", "after": 1, "resumed_after": 2} == old.messages[0][1]
    assert [("gap", None), ("connected", "c"), ("connected", "d")] == old.told
    assert {"event": "gap", "after": 99, "resumed_after": 4} == odd.messages[0][1]


async def test_no_gap_is_claimed_where_there_is_none(house: House) -> None:
    """Everything up to the number was purged, and nothing behind it."""
    await happen(house, "a", "b", "c")
    await house.broker.context.stores.events.purge_events(house.clock.now() + 1, 2)

    async with open_stream(house, last_id="2") as stream:
        await stream.beat()

    assert [("connected", "c")] == stream.told


async def test_ids_never_come_again(house: House) -> None:
    """Not even when a purge takes the newest events: a reader's number stays good."""
    await house.connect()
    async with open_stream(house, last_id="0") as first:
        await first.beat()
    await house.ask("DELETE", "/accounts/acme?purge=1")
    await happen(house, "new")

    async with open_stream(house, last_id=first.last_id) as second:
        await second.beat()

    assert [("connected", "new")] == second.told


async def test_caller_sees_its_own_accounts_only(house: House) -> None:
    """And what concerns the broker as a whole; a stranger's person never."""
    key = await house.caller("kit-*", permissions=("accounts",), name="narrow")
    person = Event(house.clock.now(), EventKind.PLUGIN_CONNECTED, None, "kit", subject="user-42")

    async with open_stream(house, key=key) as narrow, open_stream(house) as wide:
        await happen(house, "kit-1", "acme")
        await happen(house, None, kind=EventKind.BROKER_DEGRADED)
        await house.broker.context.stores.events.add_events([person])
        await narrow.beat()
        await wide.beat()

    assert [("connected", "kit-1"), ("broker_degraded", None)] == narrow.told
    assert 4 == len(wide.messages)


async def test_one_account_can_be_followed(house: House) -> None:
    """Nothing else comes."""
    async with open_stream(house, "?account=acme") as stream:
        await happen(house, "acme", "other", None, "acme")
        await stream.beat()

    assert [("connected", "acme")] * 2 == stream.told


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("?account=other", {}, 403),
        ("?account=Not/A/Name", {}, 400),
        ("", {"Last-Event-ID": "x"}, 400),
        ("", {"Last-Event-ID": "-1"}, 400),
        ("", {"Authorization": "Bearer nonsense"}, 401),
    ],
)
async def test_bad_request_is_refused(house: House, query: str, headers: dict[str, str], status: int) -> None:
    """Before a stream begins."""
    key = await house.caller("kit-*", permissions=("accounts",), name="narrow")

    answer = await house.ask("GET", f"/events{query}", key=key, headers=headers)

    assert status == answer.status


async def test_permission_is_needed(house: House) -> None:
    """A caller of tokens has no business here."""
    key = await house.caller(permissions=("token",), name="tokens")

    answer = await house.get("/events", key=key)

    assert (403, "forbidden") == (answer.status, answer.json["code"])


async def test_revoked_caller_s_stream_ends_within_a_second(house: House) -> None:
    """And says no word more."""
    key = await house.caller(permissions=("accounts",), name="fired")

    async with open_stream(house, key=key) as stream:
        await stream.beat()
        before = stream.ended
        await house.broker.callers.service.remove(operator(0), "fired", request_id="r")
        await happen(house, "secret")
        await stream.beat(1)

    assert (False, True, []) == (before, stream.ended, stream.told)


async def test_quiet_stream_is_kept_alive(house: House) -> None:
    """A comment every 15 seconds; the number moves on past what is not the caller's."""
    key = await house.caller("kit-*", permissions=("accounts",), name="narrow")

    async with open_stream(house, key=key) as stream:
        await happen(house, "acme", "acme")
        for _ in range(8):
            await stream.beat(5)

    # One more says that the stream is open.
    assert 1 + 2 == stream.comments
    assert ([], "2") == (stream.told, stream.last_id)


async def test_proxy_is_told_to_hold_nothing_back(house: House) -> None:
    """Headers and a first line come before there is any event: a proxy or a client may wait for them."""
    for path in ("/events", "/events?account=acme"):
        async with house.session.get(
            house.internal + path, headers={"Authorization": f"Bearer {house.key}"}
        ) as answer:
            first = await answer.content.readline()

        assert b": open\n" == first
        assert ("no", "no-store, no-transform") == (
            answer.headers["X-Accel-Buffering"],
            answer.headers["Cache-Control"],
        )


async def test_streams_end_when_the_broker_stops(house: House) -> None:
    """Within a look of it."""
    async with open_stream(house) as stream:
        await stream.beat()
        house.broker.listeners.stop()
        await stream.beat(0.5)

    assert stream.ended


async def test_slow_reader_is_cut_and_comes_again(house: House) -> None:
    """It holds a page and the socket's buffers, no more; after ten seconds it goes, and misses nothing."""
    long = Event(house.clock.now(), EventKind.CONNECTED, "acme", "kit", "x" * 3000)
    for _ in range(4):
        await house.broker.context.stores.events.add_events([long] * 500)
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", house.internal_port))
    reader.sendall(asked(house))
    for _ in range(3):
        await house.clock.settle(quiet=0.1)
        house.clock.advance(11)

    reader.setblocking(False)
    loop, got = asyncio.get_running_loop(), bytearray()
    try:
        while chunk := await loop.sock_recv(reader, 65536):
            got += chunk
    except ConnectionResetError:
        pass
    reader.close()
    last = got.rpartition(b"\n\n")[0].rpartition(b"id: ")[2].partition(b"\n")[0].decode()

    async with open_stream(house, last_id=last) as again:
        await again.beat(0)

    assert len(got) < 5_000_000
    assert int(last) < 2000
    assert int(last) + 1 == again.messages[0][1]["id"]


async def test_too_many_streams_are_refused(house: House) -> None:
    """Two hundred for one caller, though more come at once; the next is told so, and another caller gets one."""
    async with AsyncExitStack() as closing:
        begun: Counter[bytes] = Counter()
        crowd = [await asyncio.open_connection("127.0.0.1", house.internal_port) for _ in range(230)]
        for _, writer in crowd:
            closing.callback(writer.close)
            writer.write(asked(house))
        for reader, _ in crowd:
            begun[await reader.readline()] += 1

        answer = await house.get("/events")
        async with open_stream(
            house, key=await house.caller(permissions=("accounts",), name="other")
        ) as other:
            await other.beat(0)

    assert {b"HTTP/1.1 200 OK\r\n": 200, b"HTTP/1.1 503 Service Unavailable\r\n": 30} == begun
    assert (503, "overloaded") == (answer.status, answer.json["code"])
    assert "one caller may have 200 streams" in answer.json["detail"]
    assert (200, 1) == (other.response.status, other.comments)


def asked(house: House, last_id: str = "0") -> bytes:
    """A request for a stream, as bytes."""
    bearer = f"Authorization: Bearer {house.key}\r\nLast-Event-ID: {last_id}"
    return f"GET /events HTTP/1.1\r\nHost: x\r\n{bearer}\r\n\r\n".encode()


class EndlessFeed(Feed):
    """Events without end, none of which is for the caller."""

    def __init__(self) -> None:
        self.pages = 0

    async def beginning(self, last_id: int | None) -> tuple[int, bool]:
        return last_id or 0, False

    async def page(self, after: int, account: str | None) -> tuple[list[Event], int, bool]:
        self.pages += 1
        await asyncio.sleep(0)
        return [], after + 1, False


async def test_nobody_is_looked_for_in_the_history_after_hanging_up() -> None:
    """One who may see nothing of a long history leads through all of it, but only while the connection is open."""
    feed, caller, ended = (
        EndlessFeed(),
        Caller("narrow", ("a-*",), frozenset(Permission), "key"),
        asyncio.Event(),
    )

    async def still(_: web.Request) -> Caller:
        return caller

    streams = Streams(feed, FakeClock(), still=still)

    async def follow(request: web.Request) -> web.StreamResponse:
        request[CALLER] = caller
        try:
            return await streams.follow(request, last_id=1, account=None)
        finally:
            ended.set()

    application = web.Application()
    application.router.add_get("/events", follow)
    async with TestServer(application) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"retry: 2000")
        writer.close()
        async with asyncio.timeout(60):
            await ended.wait()

    assert feed.pages > 0
