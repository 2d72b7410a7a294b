"""On a Unix listener the kernel says who calls."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from broker.app import Broker, open_broker
from broker.config import load
from broker.http.server import QuietRunner
from tests.callers.signing import Signer, ed25519, own_claims
from tests.callers.test_jwt import table
from tests.fakes.clock import FakeClock
from tests.ports import free_port

ME, ANOTHER = os.getuid(), os.getuid() + 1
SIGNER = ed25519()
BAD = ("", "Bearer", "Bearer tbk_x", "Bearer a.b.c", "Basic eDp4", f"Bearer tbk_{'0' * 12}_{'a' * 43}")


@dataclass(frozen=True, slots=True)
class Place:
    """The internal listener of a broker, on a Unix socket and on TCP."""

    folder: Path
    broker: Broker
    clock: FakeClock
    port: int

    async def status(self, path: str = "/token/acme", *, unix: bool = True, **headers: str) -> int:
        connector = aiohttp.UnixConnector(str(self.folder / "api.sock")) if unix else aiohttp.TCPConnector()
        url = f"http://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(url, headers=headers) as answer,
        ):
            return answer.status

    def reload(self, callers: str) -> None:
        self.broker.use(load(write(self.folder, self.port, callers), environ={}))


def write(folder: Path, port: int, callers: str) -> Path:
    path = folder / "config.toml"
    path.write_text(
        f"""
[server]
internal = ["127.0.0.1:{port}", {{ path = "api.sock", mode = "0600" }}]
public = "127.0.0.1:{free_port()}"
{callers}
"""
    )
    return path


def uid_table(uid: int, name: str = "nightly") -> str:
    return f'[callers.{name}]\naccounts = ["acme"]\nuid = {uid}\n'


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """A broker that nobody is known to."""
    folder, clock, port = tmp_path / "house", FakeClock(), free_port()
    folder.mkdir(mode=0o700)
    settings = load(write(folder, port, ""), environ={})
    async with AsyncExitStack() as closing:
        broker = await closing.enter_async_context(open_broker(settings, clock=clock))
        runner = QuietRunner(broker.listeners.internal)
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        await web.UnixSite(runner, str(folder / "api.sock")).start()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield Place(folder, broker, clock, port)


async def test_known_uid_is_the_caller(place: Place) -> None:
    """Without a header, with its own rights and no others; the account is only missing."""
    place.reload(uid_table(ME))

    assert [404, 403, 403] == [
        await place.status(path) for path in ("/token/acme", "/token/other", "/accounts")
    ]


async def test_unknown_uid_has_no_rights(place: Place) -> None:
    """Root's neither: this is run as root where tests are."""
    before = await place.status()
    place.reload(uid_table(ANOTHER))

    assert (401, 401) == (before, await place.status())


async def test_uid_does_not_count_on_tcp(place: Place) -> None:
    """Where nobody knows who it is."""
    place.reload(uid_table(ME))

    assert (404, 401) == (await place.status(), await place.status(unix=False))


async def test_bad_header_is_refused_even_so(place: Place) -> None:
    """Whoever shows a credential is judged by it alone."""
    place.reload(uid_table(ME))

    statuses = {header: await place.status(Authorization=header) for header in BAD}

    assert dict.fromkeys(BAD, 401) == statuses


async def test_good_header_wins_over_the_uid(place: Place) -> None:
    """With the rights of the credential."""
    place.reload(uid_table(ME) + table("reporting", SIGNER, accounts='["other"]'))
    bearer = f"Bearer {jwt(SIGNER, place)}"

    assert [403, 404] == [
        await place.status(path, Authorization=bearer) for path in ("/token/acme", "/token/other")
    ]


def jwt(signer: Signer, place: Place) -> str:
    return signer.sign(own_claims("reporting", place.clock.now()))


async def test_reload_takes_a_uid_out_at_once(place: Place) -> None:
    """And gives it to another caller, with that one's name in the audit."""
    seen = []

    for callers in (uid_table(ME), "", uid_table(ME, "weekly")):
        place.reload(callers)
        seen.append(await place.status("/token/other"))

    audit = (place.folder / "var" / "audit.jsonl").read_text()
    assert [403, 401, 403] == seen
    assert [f'"caller":"{name}","credential":"uid {ME}"' in audit for name in ("nightly", "weekly")] == [
        True
    ] * 2


async def test_guesses_on_a_unix_socket_are_counted_by_uid(place: Place) -> None:
    """Not together with those from TCP; the uid itself still works."""
    place.reload(uid_table(ME))
    guesses = [await place.status(Authorization="Bearer x") for _ in range(21)]

    assert [401] * 20 + [429] == guesses
    assert (401, 404) == (await place.status(unix=False), await place.status())
