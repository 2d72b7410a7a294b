"""No secret anywhere: everything that handles one is driven, then every place that outlives it is searched."""

import asyncio
import io
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from broker.http.edge import as_problem, edge, new_application
from broker.http.operations import public
from broker.http.server import QuietRunner
from tests.flows.crashing import PROCESS, RENEWAL
from tests.flows.driving import CANARY, LEAKY, MALFORMED, location, new_driver, raw
from tests.flows.searching import Haul, challenge_of, files, hits, issued, kernel, stored
from tests.house import House
from tests.logged import logged
from tests.ports import free_port
from tests.process import BROKER, Process, new_process
from tests.until import moment

EXTRA = '[log]\nlevel = "debug"\nformat = "json"\n[refresh]\npatience = "1s"'
WITHIN = 20.0
FROM_KIT = f"/install/kit?utm={CANARY}&redirect=https://app.kit.com/apps/717?success=true"


@pytest.fixture(name="process")
async def _process(tmp_path: Path) -> AsyncIterator[Process]:
    async with new_process(tmp_path / "run", extra=EXTRA) as process:
        yield process


async def test_no_secret_is_left_anywhere(process: Process) -> None:
    """Not one hit in any log, answer, metric, file, database, WAL or process argument."""
    process.command = BROKER
    driver = await new_driver(process)
    sandbox = process.sandbox

    await driver.install(await driver.link("acme"))
    await driver.install(await driver.link("globex", "kustomer"))
    await driver.install(await driver.link("denied"), error="access_denied", error_description=CANARY)
    await driver.install(await driver.link("forged"), code=CANARY)
    for faults in (LEAKY[0], LEAKY[2], LEAKY[5]):
        sandbox.faults.set("kit", **faults, times=1)
        await driver.install(await driver.link("unlucky"), account="99")
    await driver.ask("POST", "/token/globex/refresh")
    await driver.refusals()
    await driver.strangers()
    await driver.renewals()
    await driver.look_around()
    running = {**files(process), **kernel(process)}
    await process.stop()

    haul = driver.haul
    haul.known |= issued(process)
    assert {"broker.db", "broker.db-wal", "audit.jsonl", "output-0.txt"} <= running.keys()
    assert len(process.events("request.malformed")) >= len(MALFORMED)
    assert [] == hits(haul, running)
    assert [] == hits(haul, files(process))
    assert [] == hits(haul, haul.answers)


BROKEN_FILES = {
    "not TOML": "[providers.kit]\nclient_secret = {canary}",
    "unfinished text": '[providers.kit]\nclient_secret = "{canary}',
    "wrong type": '[providers.kit]\nclient_id = "c"\nclient_secret = ["{canary}", 7]',
    "too many": '[providers.kit]\nclient_id = "c"\nclient_secret = ["{canary}", "{canary}", "{canary}"]',
    "wrong form": '[providers.kit]\nclient_id = "c"\nclient_secret = {{ evn = "{canary}" }}',
    "wrong place": '[providers.kit]\nclient_id = "c"\nclient_secret = "s"\napp_id = "{canary}"',
    "table": '[providers.kit]\nclient_id = "c"\nclient_secret.value = "{canary}"',
    "address": '[providers.kit]\nclient_id = "c"\nclient_secret = "s"\ntoken_url = "https://u:{canary}@x.example/"',
    "unknown key": '[providers.kit]\nclient_id = "c"\nsecret = "{canary}"',
    "master": '[keys]\nmaster = "{canary}"',
    "login": '[login]\nurl = "https://x.example/"\nkey = "{canary}"',
}
"""Where a secret may stand in a file that is not taken; no complaint may tell it."""


async def test_broken_file_is_refused_without_the_secret_in_it(process: Process) -> None:
    """SIGHUP with each: the log says what is wrong and where, systemd is told; `check` and `serve` say it again."""
    await process.start()
    good, haul = process.config.read_text(), Haul({CANARY})

    for name, text in BROKEN_FILES.items():
        process.config.write_text(text.format(canary=CANARY))
        await process.signal(signal.SIGHUP)
        haul.keep(name, "systemd", (await process.until("reload refused")).encode())
    process.config.write_text(f"{good}\n[nonsense]\nsecret = '{CANARY}'")
    for command in ("check", "serve"):
        code, out, err = await process.run(command)
        haul.keep(command, code, f"{out}{err}".encode())
    process.config.write_text(good)

    assert len(process.events("reload.refused")) >= len(BROKEN_FILES)
    assert len(BROKEN_FILES) + 2 == len(haul.answers)
    assert [] == hits(haul, {**files(process), **haul.answers})


SECRETS = """
[providers.by-env]
type = "oauth2"
client_id = "c"
client_secret = {{ env = "BY_ENV" }}
authorize_url = "{base}/a"
token_url = "{base}/t"
previous_clients = [{{ client_id = "older", client_secret = "canary-previous-51d0" }}]
[providers.by-file]
type = "oauth2"
client_id = "c"
client_secret = [{{ file = "secret" }}, "canary-second-93aa"]
client_auth = "basic"
authorize_url = "{base}/a"
token_url = "{base}/t"
"""
CLIENT_SECRETS = ("canary-env-77c1", "canary-previous-51d0", "canary-file-20be", "canary-second-93aa")


async def test_crash_of_the_real_process_leaves_no_secret(tmp_path: Path) -> None:
    """A renewal that fails with secrets in its error, then the process itself: class and place, and nothing else."""
    orders = tmp_path / "orders"
    command = (*BROKER[:-2], "-m", "tests.flows.crashing", str(orders))
    async with new_process(tmp_path / "run", extra=EXTRA) as process:
        process.environ = {"BY_ENV": CLIENT_SECRETS[0]}
        (process.folder / "secret").touch(mode=0o600)
        (process.folder / "secret").write_text(CLIENT_SECRETS[2])
        process.write_config(EXTRA + SECRETS.format(base=process.sandbox.base_url))
        process.command = command
        driver = await new_driver(process)
        driver.haul.known |= {*CLIENT_SECRETS}
        await driver.install(await driver.link("acme"))
        await driver.install(await driver.link("globex", "kustomer"))
        text = " ".join(sorted({*driver.haul.known, *issued(process)}))

        orders.write_text(f"{RENEWAL} {text}")
        answer = await driver.ask("POST", "/token/acme/refresh")
        running = {**files(process), **kernel(process)}
        orders.write_text(f"{PROCESS} {text}")
        with suppress(aiohttp.ClientError):
            await driver.ask("POST", "/token/globex/refresh")
        code = await process.wait()

        driver.haul.known |= issued(process)
        failed, *_ = process.events("renewal.crashed")
        [crashed] = process.events("broker.crashed")
        assert b'"code":"internal"' in answer
        assert (1, "RuntimeError", "KeyboardInterrupt") == (code, failed["error"], crashed["error"])
        assert "crashing.py" in " ".join([*failed["at"], *crashed["at"]])
        assert "Traceback" not in process.said()
        assert [] == hits(driver.haul, running)
        assert [] == hits(driver.haul, {**files(process), **driver.haul.answers})


async def test_rescue_spool_holds_no_token_in_clear(process: Process) -> None:
    """The store is locked while a renewal's answer comes: what is rescued is sealed, and stored later."""
    driver = await new_driver(process)
    await driver.install(await driver.link("acme"))
    process.sandbox.faults.set("kit", latency_after=1, times=1)

    renewing = asyncio.create_task(driver.ask("POST", "/token/acme/refresh"))
    await until(lambda: is_refreshing(process))
    with closing(sqlite3.connect(process.folder / "var" / "broker.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await until(lambda: bool(spooled(process)))
        rescued = spooled(process)
    await renewing

    driver.haul.known |= issued(process)
    assert [] == hits(driver.haul, {**rescued, **files(process)})
    assert [] == hits(driver.haul, driver.haul.answers)


def spooled(process: Process) -> dict[str, bytes]:
    """The spool alone: to read the store's files here would drop the lock on them, which is this process's."""
    folder = process.folder / "var" / "broker.db.spool"
    return {path.name: path.read_bytes() for path in folder.glob("*.tokens")}


def is_refreshing(process: Process) -> bool:
    """Whether a refresh request has reached the sandbox."""
    with closing(sqlite3.connect(process.folder / "sandbox.db")) as connection:
        return bool(connection.execute("SELECT 1 FROM requests WHERE kind = 'refresh'").fetchall())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():
            await moment()


async def test_malformed_requests_get_one_constant_answer(house: House) -> None:
    """A 4xx of our own that quotes nothing and names no version; the broker goes on serving."""
    await house.connect()

    answers = [await raw(house.internal_port, request.replace(b"%s", b"x")) for request in MALFORMED.values()]

    for name, answer in zip(MALFORMED, answers, strict=True):
        assert re.match(rb"HTTP/\d\.\d 4\d\d ", answer), (name, answer)
        assert b'"code":"' in answer, (name, answer)
        assert b"Server: token-broker\r\n" in answer, (name, answer)
        assert not re.search(rb"aiohttp|Python", answer), (name, answer)
    assert 200 == (await house.get("/token/acme")).status


@pytest.fixture(name="log")
def _log() -> Iterator[io.StringIO]:
    """What is logged in this process, as the broker would print it."""
    with logged() as written:
        yield written


async def test_sign_in_leaves_no_secret(house: House, log: io.StringIO) -> None:
    """An install that begins at Kit: neither challenge nor signed answer, state nor code are left anywhere."""
    haul = Haul({CANARY})
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        login = URL(await location(browser.get(house.public + FROM_KIT, allow_redirects=False)))
        form = {**login.query, "login_as": "user-42", "decision": "allow"}
        done = URL(await location(browser.post(login, data=form, allow_redirects=False)))
        consent = URL(await location(browser.get(done, allow_redirects=False)))
        form = {**consent.query, "decision": "allow", "account": "29"}
        back = URL(await location(browser.post(consent, data=form, allow_redirects=False)))

        assert FROM_KIT.endswith(await location(browser.get(back, allow_redirects=False)))
        haul.known |= {done.query["login_challenge"], done.query["login_response"]}
        haul.known |= {consent.query["state"], back.query["code"]}
        haul.known |= {house.key, *(cookie.value for cookie in browser.cookie_jar)}
    haul.challenges.add(consent.query["code_challenge"])

    assert 8 == len(haul.known)
    assert "install.ended" in log.getvalue()
    assert [] == hits(haul, {**stored(house.folder), "log": log.getvalue().encode()})


@public
async def crash(request: web.Request) -> web.StreamResponse:
    """Fail with a secret in the text, the cause and the locals."""
    try:
        raise ValueError(f"cannot parse {await request.text()}")
    except ValueError as exc:
        raise RuntimeError(request.headers["Authorization"]) from exc


@public
async def crash_late(request: web.Request) -> web.StreamResponse:
    """Fail when the answer has begun."""
    response = web.StreamResponse()
    await response.prepare(request)
    raise RuntimeError(request.headers["Authorization"])


@pytest.mark.parametrize("path", ["/crash", "/late"])
async def test_crash_tells_its_class_and_place_only(log: io.StringIO, path: str) -> None:
    """Neither the answer nor the log holds what the error said; the log says where it was."""
    application = new_application(edge(as_problem, listener="internal", is_stopping=lambda: False))
    application.add_routes([web.post("/crash", crash), web.post("/late", crash_late)])
    runner, port = QuietRunner(application), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {CANARY}\r\n"

    answer = await raw(port, f"{head}Content-Length: {len(CANARY)}\r\n\r\n{CANARY}".encode())
    await runner.cleanup()

    assert "RuntimeError" in log.getvalue()
    assert "test_canaries.py" in log.getvalue()
    assert CANARY not in log.getvalue()
    assert CANARY.encode() not in answer


def test_search_finds_what_is_there() -> None:
    """The search itself can fail: words, the sandbox's tokens, and verifiers by their hash."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXkdBjftJeZ4CVP-mB92K27u"
    haul = Haul({CANARY}, {challenge_of(verifier)})
    places = {
        "clean": b"nothing sbx-kit-client",
        "log": b"x canary-3f9c1d y",
        "spool": b"\x00sbx-kit-rt-AAAABBBBCCCCDDDDEEEE\x00",
        "store": f"0x{verifier}x0".encode(),
    }

    assert ["log: canary-3f9c1…", "spool: sbx-kit-…", "store: a verifier"] == hits(haul, places)
