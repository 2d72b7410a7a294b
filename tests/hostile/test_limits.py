"""Every limit of a listener, on real sockets: what is over it gets a clear error, and nobody else notices."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from broker.app.listeners import OPERATORS, SERVICES, STRANGERS, ListenerLimits
from broker.http.edge import Limits
from tests.hostile.conftest import SHORT, Target, hurried
from tests.hostile.wire import PATIENCE, connect, statuses, talk
from tests.house import House, open_house

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
PAGE = b"GET /install/kit HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def house_with(
    folder: Path, *, internal: Limits = SERVICES, public: Limits = STRANGERS
) -> AsyncIterator[House]:
    async with open_house(folder, limits=ListenerLimits(internal, public, OPERATORS)) as house:
        yield house


def problem_of(received: bytes) -> tuple[int, str]:
    """Status and code of one answer."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, received[:200]
    return statuses(received)[0], str(json.loads(body)["code"])


@asynccontextmanager
async def idlers(port: int, number: int) -> AsyncIterator[None]:
    """So many connections that say nothing; they are let in before whoever comes later."""
    opened = [await connect(port) for _ in range(number)]
    try:
        yield
    finally:
        for _, writer in opened:
            writer.close()
        for _, writer in opened:
            await writer.wait_closed()


async def once_there_is_room(port: int, data: bytes) -> list[int]:
    """What is answered when the broker has noticed who has gone."""
    async with asyncio.timeout(PATIENCE):
        while (found := statuses(await talk(port, data))) in ([429], [503], []):
            pass
    return found


def test_limits_are_those_of_the_documentation() -> None:
    """64 connections of one stranger, 1,024 strangers, 16,384 services; half a minute, ten seconds, 16 KiB."""
    assert (16_384, None) == (SERVICES.connections, SERVICES.per_peer)
    assert (1024, 64) == (STRANGERS.connections, STRANGERS.per_peer)
    assert {(30.0, 10.0, 16_384, 8190, 128)} == {
        (one.idle, one.body_seconds, one.body, one.line, one.headers)
        for one in (SERVICES, STRANGERS, OPERATORS)
    }
    assert [(10.0, 30.0), (10.0, 30.0), (10.0, None)] == [
        (one.handshake, one.unread) for one in (SERVICES, STRANGERS, OPERATORS)
    ]


def test_fewer_files_mean_fewer_connections() -> None:
    """A machine that gives few open files keeps some for the store and the providers."""
    assert 16_384 == ListenerLimits().within(65_536).internal.connections
    assert 1024 == ListenerLimits().within(4096).internal.connections
    assert 64 == ListenerLimits().within(1024).internal.connections


@pytest.mark.parametrize("files", [65_536, 19_456, 4096, 1024, 512])
def test_full_listeners_leave_files_to_the_store_and_the_providers(files: int) -> None:
    """A quarter of them, or 1,024."""
    few = ListenerLimits().within(files)

    taken = sum(one.connections for one in (few.internal, few.public, few.admin))
    assert files - taken >= min(files // 4, 1024)
    assert few.public.connections <= files // 4


async def test_stranger_has_64_connections(house: House) -> None:
    """The 65th is told so and closed; once one of them has gone there is room again."""
    async with idlers(house.public_port, 64):
        refused = await talk(house.public_port, PAGE)
        inside = await house.get("/healthz")

    after = await once_there_is_room(house.public_port, PAGE)

    assert (429, "rate_limited") == problem_of(refused)
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert b"\r\nConnection: close\r\n" in refused
    assert (200, [302]) == (inside.status, after)


async def test_services_have_no_limit_of_their_own(house: House) -> None:
    """A hundred connections of one address are no matter on `internal`."""
    async with idlers(house.internal_port, 100):
        answer = await talk(house.internal_port, HEALTH)

    assert [200] == statuses(answer)


async def test_proxy_is_not_counted_as_a_stranger(tmp_path: Path) -> None:
    """Peers that speak for many are let in beyond the number for one."""
    public = replace(STRANGERS, per_peer=2, uncapped=(ip_network("fe80::/10"), ip_network("127.0.0.0/8")))
    async with house_with(tmp_path / "house", public=public) as house, idlers(house.public_port, 5):
        answer = await talk(house.public_port, PAGE)

    assert [302] == statuses(answer)


@pytest.mark.parametrize("listener", ["internal", "public"])
async def test_full_listener_says_so(tmp_path: Path, listener: str) -> None:
    """One connection more than there may be is a 503 with Retry-After; then there is room again."""
    few = Limits(connections=3)
    async with house_with(tmp_path / "house", internal=few, public=few) as house:
        port = house.internal_port if listener == "internal" else house.public_port
        async with idlers(port, 3):
            refused = await talk(port, HEALTH)
        after = await once_there_is_room(port, HEALTH)

    assert (503, "overloaded") == problem_of(refused)
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert after == [200]


async def asks(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], key: str) -> bytes:
    """One hot token on a connection that is kept; its status line, or nothing where there is none."""
    reader, writer = connection
    try:
        writer.write(f"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
    except (ConnectionError, asyncio.IncompleteReadError):
        return b""
    return head.partition(b"\r\n")[0]


async def test_those_inside_go_on_while_a_crowd_is_turned_away(tmp_path: Path) -> None:
    """Each of the crowd hears 503 and when to come again; when the others have left, as many are let in."""
    full, token = Limits(connections=20), b"HTTP/1.1 200 OK"
    async with house_with(tmp_path / "house", internal=full) as house:
        await house.connect()
        key, port = await house.caller(name="hot"), house.internal_port
        await house.session.close()
        inside = [await connect(port) for _ in range(20)]
        first = [await asks(one, key) for one in inside]
        crowd = asyncio.gather(*(talk(port, HEALTH) for _ in range(60)))
        during = [await asks(one, key) for _ in range(3) for one in inside]
        refused = [problem_of(received) for received in await crowd if received]
        for _, writer in inside:
            writer.close()
        after = [await once_there_is_room(port, HEALTH) for _ in range(20)]
        again = [await connect(port) for _ in range(20)]
        served = [await asks(one, key) for one in again]
        for _, writer in again:
            writer.close()

    assert ([token] * 20, [token] * 60, [token] * 20) == (first, during, served)
    assert {(503, "overloaded")} == {*refused}
    assert [[200]] * 20 == after


async def test_crowd_at_the_door_does_not_fill_the_log(tmp_path: Path, log: io.StringIO) -> None:
    """Two hundred are turned away; one or two lines say so, and everybody is gone in the end."""
    async with (
        house_with(tmp_path / "house", public=Limits(connections=1)) as house,
        idlers(house.public_port, 1),
    ):
        crowd = await asyncio.gather(*(talk(house.public_port, b"") for _ in range(200)))

    lines = [line for line in log.getvalue().splitlines() if "connection.refused" in line]
    assert {503} == {status for answer in crowd for status in statuses(answer)}
    assert 1 <= len(lines) <= 5


async def test_slow_header_is_cut(target: Target) -> None:
    """A header that comes in drops has half a minute in all, here a moment; each drop does not begin it anew."""
    reader, writer = await connect(target.house.internal_port)

    async def drip() -> None:
        for byte in b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 10_000:
            writer.write(bytes([byte]))
            await asyncio.sleep(SHORT / 10)

    dripping = asyncio.create_task(drip())
    received = b""
    # The server may hang up while a drop is on its way to it, which resets the connection.
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            received = await reader.read()
    dripping.cancel()
    writer.close()

    assert b"" == received
    assert 200 == (await target.house.get("/token/acme")).status


async def test_connection_that_says_nothing_is_closed(target: Target) -> None:
    """Also after a request: idle connections end by themselves."""
    silent = await talk(target.house.public_port, b"")
    kept = await talk(target.house.internal_port, HEALTH.replace(b"Connection: close\r\n", b""))

    assert (b"", [200]) == (silent, statuses(kept))


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 500\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n{"]
)
async def test_slow_body_is_told(target: Target, framing: bytes) -> None:
    """A body that does not come in time is a 400 that says so, and the end of the connection."""
    head = f"POST /installs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.house.key}\r\n".encode()

    received = await talk(target.house.internal_port, head + framing)

    assert (400, "invalid_request") == problem_of(received)
    assert b"did not arrive within 0.3 seconds" in received
    assert b"\r\nConnection: close\r\n" in received


@pytest.mark.parametrize(
    ("size", "status"),
    [(16 * 1024, 400), (16 * 1024 + 1, 413), (200_000, 413)],
    ids=["most", "over", "far over"],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_body_has_16_kib(house: House, size: int, status: int, chunked: bool) -> None:
    """The last byte that is taken, and the first that is not; however it is framed."""
    head = f"POST /installs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.key}\r\nConnection: close\r\n".encode()
    content = b'{"provider":"' + b"x" * (size - 15) + b'"}'
    framed = b"Content-Length: %d\r\n\r\n%s" % (size, content)
    if chunked:
        framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (size, content)

    received = await talk(house.internal_port, head + framed)

    assert (status, "too_large" if status == 413 else "invalid_request") == problem_of(received)


async def test_body_of_a_get_is_ignored_and_ends_the_connection(target: Target) -> None:
    """What hides in it is not answered."""
    hidden = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.house.key}\r\n".encode()

    received = await talk(
        target.house.internal_port, head + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden + hidden
    )

    assert [200] == statuses(received)
    assert b"\r\nConnection: close\r\n" in received


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (b"X: " + b"a" * 8180, 200),
        (b"X: " + b"a" * 8200, 400),
        (b"\r\n".join([b"X: a"] * 120), 200),
        (b"\r\n".join([b"X: a"] * 130), 400),
    ],
    ids=["long", "too long", "many", "too many"],
)
async def test_header_has_128_fields_of_8190_bytes(house: House, field: bytes, status: int) -> None:
    """A little below is taken, a little above is refused with one constant answer."""
    received = await talk(house.internal_port, HEALTH[:-2] + field + b"\r\n\r\n")

    assert [status] == statuses(received)


async def test_other_version_is_answered_in_ours(house: House) -> None:
    """HTTP/2 without an agreement is a 400 in HTTP/1.1, and the end."""
    received = await talk(house.internal_port, HEALTH.replace(b"HTTP/1.1", b"HTTP/2.0"))

    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert (400, "invalid_request") == problem_of(received)


async def test_caller_who_hangs_up_in_a_body_is_no_crash(target: Target) -> None:
    """It is logged as a refused request, not as a mistake of ours."""
    head = f"POST /installs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.house.key}\r\n".encode()

    await talk(target.house.internal_port, head + b"Content-Length: 500\r\n\r\n{", half_close=True)
    await target.house.get("/healthz")

    assert "request.crashed" not in target.log.getvalue()


def test_hurried_limits_change_times_only() -> None:
    """What the tests of this folder shrink."""
    assert replace(hurried(STRANGERS), idle=30.0, body_seconds=10.0) == STRANGERS
