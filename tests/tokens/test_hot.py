"""The short way of a hot token: the same answers as the ordinary way, and only where nothing has to be decided."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.model import Reason
from tests.house import House, open_house

USUALLY = "min_ttl=0"
"""A query that asks for nothing, and leads down the ordinary way."""
QUESTIONS = 500
AUDITED = '[audit]\nto = { path = "audit.jsonl" }'


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Its audit is a file, and account and caller are in memory."""
    async with open_house(tmp_path / "house", extra=AUDITED) as house:
        await house.connect()
        assert 200 == (await house.get("/token/acme")).status
        yield house


@dataclass(frozen=True)
class Wire:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_short(self) -> bool:
        """Which way a token came is seen only by the order of its headers."""
        names = [*self.headers]
        return self.status == 200 and names.index("Date") > names.index("X-Request-Id")

    @property
    def told(self) -> tuple[int, dict[str, str], bytes]:
        """What two answers to the same question have in common; a problem quotes its request's id."""
        headers = {
            name: value for name, value in self.headers.items() if name not in {"Date", "X-Request-Id"}
        }
        body = self.body
        if self.headers.get("Content-Type") == "application/problem+json":
            body = json.dumps({**json.loads(body), "request_id": ""}).encode()
        return self.status, headers, body


async def ask(
    house: House,
    path: str = "/token/acme",
    *more: tuple[str, str],
    method: str = "GET",
    version: str = "1.1",
    body: str = "",
    authorization: str | None = "Bearer {key}",
) -> Wire:
    """One request, written by hand; `{key}` stands for the house's."""
    headers = [("Host", "broker"), *more]
    if authorization is not None:
        headers.append(("Authorization", authorization.format(key=house.key)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    async with connected(house) as (reader, writer):
        # So that a test can write any byte.
        writer.write(f"{method} {path} HTTP/{version}\r\n{lines}\r\n{body}".encode("latin-1"))
        return await read(reader, has_body=method != "HEAD")


@asynccontextmanager
async def connected(house: House) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.internal_port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def read(reader: asyncio.StreamReader, *, has_body: bool = True) -> Wire:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    length = int(headers.get("Content-Length", 0)) if has_body else 0
    return Wire(int(first.split()[1]), headers, await reader.readexactly(length))


def audited(house: House) -> list[dict[str, Any]]:
    """The lines of the audit, without what differs between any two."""
    lines = [json.loads(line) for line in (house.folder / "audit.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in {"n", "at", "mac", "request_id"}}
        for line in lines
    ]


async def test_hot_token_takes_the_short_way_and_is_the_same(house: House) -> None:
    """To the byte of its body, header by header, with the same line in the audit and the same metrics."""
    short = await ask(house)
    long = await ask(house, f"/token/acme?{USUALLY}")

    assert (True, False) == (short.is_short, long.is_short)
    assert short.told == long.told
    assert audited(house)[-1] == audited(house)[-2]
    metrics = house.broker.context.metrics.text()
    assert b'broker_token_requests_total{outcome="served",provider="kit"} 3.0' in metrics
    assert b"broker_token_request_seconds_count 3.0" in metrics


@pytest.mark.parametrize(
    ("path", "more", "options"),
    [
        ("/token/acme", [("If-None-Match", '"1"')], {}),
        ("/token/acme", [("Accept", "text/plain")], {}),
        ("/token/acme", [("Connection", "close")], {}),
        ("/token/acme", [("Content-Length", "2")], {"body": "{}"}),
        ("/token/acme", [("Expect", "100-continue")], {}),
        ("/token/acme", [("Authorization", "Bearer x")], {}),
        ("/token/acme", [], {"version": "1.0"}),
        ("/token/acme", [], {"method": "HEAD"}),
        ("/token/acme", [], {"authorization": None}),
        ("/token/acme", [], {"authorization": "bearer  {key}"}),
        ("/token/acme", [], {"authorization": "Bearer {key}x"}),
        ("/token/acme?", [], {}),
        ("/token/%61cme", [], {}),
        ("/token/acme/", [], {}),
        ("/token/nobody", [], {}),
    ],
)
async def test_anything_else_takes_the_ordinary_way(
    house: House, path: str, more: list[tuple[str, str]], options: dict[str, Any]
) -> None:
    """Conditions, bodies, other spellings and other methods are the application's."""
    assert not (await ask(house, path, *more, **options)).is_short


async def test_both_ways_answer_alike(house: House) -> None:
    """Generated requests, each asked both ways."""
    await house.connect("kit", "globex", account="2")
    numbers, short = random.Random(8), 0

    for number in range(QUESTIONS):
        if number % 5 == 0:
            # Else so many wrong credentials would be answered more slowly.
            house.clock.advance(61)
        path, more, options = generated(numbers)
        one = await ask(house, path, *more, **options)
        other = await ask(house, f"{path}?{USUALLY}", *more, **options)
        assert one.told == other.told, (path, more, options)
        short += one.is_short

    assert short > QUESTIONS // 10


def generated(numbers: random.Random) -> tuple[str, list[tuple[str, str]], dict[str, Any]]:
    """A request that is likely to be a plain one, with this or that about it."""
    names = ["acme"] * 6 + ["globex", "nobody", "%61cme", "a", "ACME", "acme/x", "."]
    odd = [
        ("Accept", "*/*"),
        ("Accept", "text/plain, */*"),
        ("If-None-Match", '"1"'),
        ("If-None-Match", '"2"'),
        ("X-Request-Id", "abcdefgh-1234"),
        ("X-Request-Id", "no good"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("Connection", "keep-alive"),
        ("Content-Length", "0"),
        ("Authorization", "Bearer other"),
        ("Range", "bytes=0-3"),
        ("Accept-Encoding", "gzip"),
        ("Cookie", "a=b"),
    ]
    more = numbers.sample(odd, numbers.choice([0, 0, 1, 2]))
    bearers = ["Bearer {key}"] * 9 + ["bearer {key}", "Bearer  {key}", "Bearer {key} ", "Basic {key}", None]
    return f"/token/{numbers.choice(names)}", more, {"authorization": numbers.choice(bearers)}


@pytest.mark.parametrize("credential", ["eyJ\xd7.a.b", "tbk_\xd7", "\xff\xfe"])
async def test_credential_that_is_no_text_is_refused(house: House, credential: str) -> None:
    """Bytes that are not UTF-8 are somebody's guess, and no error of ours; nor are they elsewhere."""
    guess = await ask(house, "/token/acme", authorization=f"Bearer {credential}")
    named = await ask(house, "/token/acme", ("X-Request-Id", credential), ("Accept", credential))

    assert 401 == guess.status
    assert (200, True) == (named.status, named.is_short)


async def test_requests_in_one_piece_are_answered_in_their_order(house: House) -> None:
    """Short, ordinary, short."""
    asked = [
        f"GET /token/acme{query} HTTP/1.1\r\nHost: broker\r\nX-Request-Id: request-{number}\r\n"
        f"Authorization: Bearer {house.key}\r\n\r\n"
        for number, query in enumerate(("", f"?{USUALLY}", ""))
    ]

    async with connected(house) as (reader, writer):
        writer.write("".join(asked).encode())
        answers = [await read(reader) for _ in asked]

    assert [f"request-{number}" for number in range(3)] == [one.headers["X-Request-Id"] for one in answers]
    assert [True, False, True] == [one.is_short for one in answers]


async def test_account_that_is_not_in_the_cache_is_read(house: House) -> None:
    """By the ordinary way, and the next answer is short; an unknown account is refused there too."""
    house.broker.tokens.cache.forget("acme")

    answers = [await ask(house), await ask(house), await ask(house, "/token/nobody")]

    assert [(False, 200), (True, 200), (False, 404)] == [(one.is_short, one.status) for one in answers]


async def test_store_that_cannot_be_read_takes_no_valid_token_away(house: House) -> None:
    """Both ways go on with what is in the cache; what needs the row is refused."""
    await house.broker.context.stores.database.close()

    short, long = await ask(house), await ask(house, f"/token/acme?{USUALLY}")
    others = [await house.get("/token/nobody"), await house.post("/token/acme/refresh")]

    assert (200, True, False) == (short.status, short.is_short, long.is_short)
    assert short.told == long.told
    assert [(503, "storage_unavailable")] * 2 == [(one.status, one.json["code"]) for one in others]


async def test_next_generation_is_answered_next(house: House) -> None:
    """What was made of the one before is not used again."""
    old = await ask(house)
    await house.post("/token/acme/refresh")
    await house.get("/token/acme")

    new = await ask(house)

    assert [True, True] == [old.is_short, new.is_short]
    assert [1, 2] == [json.loads(one.body)["generation"] for one in (old, new)]


async def test_seconds_run_down_to_the_window(house: House) -> None:
    """And inside it a living token is given for a moment, while its renewal begins."""
    first = json.loads((await ask(house)).body)["expires_in"]

    house.clock.advance(first - 2)
    await house.get("/token/acme")  # the key is looked up again
    later = await ask(house)
    # The renewal that begins in the window must not be over when the token is asked for again.
    house.sandbox.faults.set("kit", latency=1.0, times=1)
    house.clock.advance(1.5)
    await house.get("/token/acme")
    inside = await ask(house)
    await house.clock.settle()
    house.clock.advance(1.0)
    await house.broker.tokens.flights.drain()

    assert (True, 2) == (later.is_short, json.loads(later.body)["expires_in"])
    assert 1 == json.loads(inside.body)["expires_in"]
    assert 1 == await house.refreshes()


async def test_who_may_not_have_it_is_refused_by_the_ordinary_way(house: House) -> None:
    """Each time, with its line in the audit."""
    key = await house.caller("other", name="narrow")

    refused = [(await house.get("/token/acme", key=key)).status for _ in range(2)]

    assert [403, 403] == refused
    assert ["denied", "denied"] == [line["decision"] for line in audited(house)[-2:]]


async def test_refusals_are_alike(house: House) -> None:
    """Not allowed, unknown, dead, or not to be renewed just now: the same problem, with the same headers."""
    narrow = await house.caller("other", name="narrow")
    await house.connect("kit", "frozen", account="3")
    await house.connect("kit", "dead", account="4")
    house.clock.advance(3 * 86400)
    account = await house.account("dead")
    await house.broker.context.stores.accounts.settle(
        account.ref,
        trouble=account.trouble,
        keep_intent=False,
        dead=Reason.REVOKED_OR_EXPIRED,
        next_at=None,
        at=house.clock.now(),
        events=[],
    )
    await house.broker.context.stores.accounts.freeze("frozen", Reason.OPERATOR, house.clock.now())
    for key in (house.key, narrow):
        await house.get("/token/nobody", key=key)

    for path, key, status in (
        ("/token/acme", narrow, 403),
        ("/token/nobody", house.key, 404),
        ("/token/frozen", house.key, 409),
        ("/token/dead", house.key, 409),
    ):
        short = await ask(house, path, authorization=f"Bearer {key}")
        long = await ask(house, f"{path}?{USUALLY}", authorization=f"Bearer {key}")
        assert status == short.status, path
        assert short.told == long.told, path
        assert audited(house)[-1] == audited(house)[-2], path


async def test_broker_that_stops_meanwhile_says_so(house: House) -> None:
    """Whoever was answered last is told not to ask over this connection again."""
    house.clock.advance(2 * 86400)
    await house.get("/token/nobody")  # the key is looked up again
    house.sandbox.faults.set("kit", latency=1.0, times=1)
    asked = asyncio.create_task(ask(house))
    await house.clock.settle()

    house.broker.context.health.stopping = True
    house.clock.advance(1.0)
    answer = await asked

    assert (200, "close") == (answer.status, answer.headers.get("Connection"))


async def test_peer_that_never_reads_makes_nothing_pile_up(house: House) -> None:
    """Its requests are answered until the buffers are full; the others wait in its own machine."""
    request = f"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.key}\r\n\r\n".encode()
    piled_up, statuses, server = 0, set[int](), house.internal_server
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", house.internal_port))
        await house.get("/token/acme")
        open_ = [one.transport for one in server.connections if one.transport is not None]
        for transport in open_:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        deaf.send(request * 3000)
        for _ in range(150):
            statuses.add((await house.get("/token/acme")).status)
            piled_up = max(piled_up, *(transport.get_write_buffer_size() for transport in open_))

    assert ({200}, True) == (statuses, 65_536 < piled_up < 70_000), piled_up
