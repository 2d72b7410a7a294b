"""No secret anywhere: everything that handles one is driven, then every place that outlives it is searched."""

import asyncio
import re
import sqlite3
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from broker.sandbox import visitor
from tests.process import Process, new_process

CANARY = "canary-3f9c1d"
EXTRA = '[log]\nlevel = "debug"\nformat = "json"'

MALFORMED = {
    "space before colon": b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer %s\r\n\r\n",
    "bad header line": b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\x00bad\r\n\r\n",
    "folded header": b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n %s\r\n\r\n",
    "bad request line": b"GET /token/%s\r\n\r\n",
    "bad method": b"G\x01T /?code=%s HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nX: %s\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nX: %s\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "bad chunk": b"POST /installs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\n%s\r\n0\r\n\r\n",
    "header too long": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s" + b"a" * 9000 + b"\r\n\r\n",
    "byte ff": b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff%s\r\n\r\n",
    "two credentials": (
        b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nAuthorization: Bearer x\r\n\r\n"
    ),
    "TLS on a plain port": b"\x16\x03\x01%s",
}


@pytest.fixture(name="process")
async def _process(tmp_path: Path) -> AsyncIterator[Process]:
    async with new_process(tmp_path / "run", extra=EXTRA) as process:
        yield process


async def raw(port: int, request: bytes) -> bytes:
    """Send bytes as they are; whatever comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


def secrets_of(process: Process) -> set[str]:
    """Every token and code that the sandbox ever issued; they lie in clear in its database."""
    found: set[str] = set()
    with sqlite3.connect(process.folder / "sandbox.db") as connection:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for table in tables:
            for row in connection.execute(f"SELECT * FROM {table}"):
                found |= {value for value in row if isinstance(value, str) and is_secret(value)}
    connection.close()
    return found


def is_secret(value: str) -> bool:
    return value.startswith("sbx-") or (value.count(".") == 2 and value.startswith("eyJ"))


async def drive(process: Process) -> tuple[set[str], list[bytes]]:
    """Everything that handles secrets, well and badly; the secrets, and the answers that must hold none."""
    await process.new_key()
    known = {process.key, "sandbox-kit-secret", (process.folder / "var" / "master.key").read_text().strip()}
    answers: list[bytes] = []
    code, link, _ = await process.run("install-link", "kit", "--account", "acme")
    assert code == 0
    known.add(link.strip().partition("ticket=")[2])
    known |= await walk(link.strip(), answers)
    await process.connect("acme")
    await process.connect("globex", "kustomer")
    for faults in (
        {"raw": f'{{"access_token": "sbx-leak-{CANARY}", "refresh_token": "sbx-leak-{CANARY}", '},
        {
            "status": 400,
            "body": f'{{"error":"invalid_client","error_description":"sandbox-kit-secret {CANARY}"}}',
        },
        {"status": 500, "body": f"<html>{CANARY}</html>"},
        {"status": 302, "headers": {"Location": f"http://127.0.0.1:1/{CANARY}"}},
        {"truncate": -1},
        {"drop": "after"},
    ):
        process.sandbox.faults.set("kit", **faults, times=1)
        await process.run("accounts", "refresh", "acme")
    answers += [
        (await process.get(path)).body for path in ("/token/nobody-here", "/accounts", f"/token/{CANARY}!")
    ]
    answers += [await post(process, f'{{"provider": "{CANARY}", "x": "{CANARY}"}}')]
    for request in MALFORMED.values():
        for port in (process.internal_port, process.public_port):
            answers.append(await raw(port, request.replace(b"%s", CANARY.encode())))
    process.key = f"tbk_000000000000_{CANARY.ljust(43, 'x')}"
    answers.append((await process.get("/token/acme")).body)
    return known | {CANARY} | secrets_of(process), answers


async def post(process: Process, body: str) -> bytes:
    headers = {"Authorization": f"Bearer {process.key}"}
    async with process.session.post(process.internal + "/installs", data=body, headers=headers) as answer:
        return await answer.read()


async def walk(link: str, answers: list[bytes]) -> set[str]:
    """Open a link by hand and come back with a refusal: its state and cookie."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        async with browser.get(link, allow_redirects=False) as step:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(step.headers["Location"]).query)
        callback = f"{link.partition('/install/')[0]}/callback/kit?error={CANARY}&state={query['state'][0]}"
        async with browser.get(callback) as page:
            answers.append(await page.read())
        cookie = next(iter(jar)).value
    await visitor.install(link, decision="deny")
    return {query["state"][0], cookie}


def places(process: Process) -> dict[str, bytes]:
    """Everything that outlives a request: logs, store, WAL, audit, spool, the kernel's view of the process."""
    assert process.running is not None
    proc = Path("/proc") / str(process.running.pid)
    found = {path.name: path.read_bytes() for path in process.output}
    for path in (process.folder / "var").rglob("*"):
        if path.is_file() and path.name != "master.key":
            found[path.name] = path.read_bytes()
    return {**found, "cmdline": (proc / "cmdline").read_bytes(), "environ": (proc / "environ").read_bytes()}


def hits(known: set[str], searched: dict[str, bytes]) -> list[str]:
    """Where which secret was found; the secret itself is cut short."""
    return sorted(
        f"{place}: {secret[:12]}…"
        for secret in known
        for place, content in searched.items()
        if secret.encode() in content
    )


async def test_no_secret_is_left_anywhere(process: Process) -> None:
    """Not one hit in any log, answer, metric, file, database, WAL or process argument."""
    await process.start()

    known, answers = await drive(process)
    metrics = await process.run("check")
    searched = places(process)

    assert len(known) > 10
    assert len(re.findall(rb"request.malformed", searched["output-0.txt"])) >= 6, (
        "the malformed ones were seen"
    )
    assert [] == hits(known, searched)
    assert [] == hits(known, {f"answer {n}": body for n, body in enumerate(answers)})
    assert [] == hits(known, {"check": "".join(map(str, metrics)).encode()})


async def test_malformed_requests_get_one_constant_answer(process: Process) -> None:
    """A 4xx of our own that quotes nothing and names no version; the broker goes on serving."""
    await process.start()
    await process.new_key()
    await process.connect("acme")

    answers = [
        await raw(process.internal_port, request.replace(b"%s", b"x")) for request in MALFORMED.values()
    ]

    for name, answer in zip(MALFORMED, answers, strict=True):
        assert re.match(rb"(HTTP/1\.[01] 4\d\d |$)", answer), (name, answer)
        assert b"aiohttp" not in answer, name
    assert 200 == (await process.get("/token/acme")).status


def test_search_finds_what_is_there() -> None:
    """The search itself can fail."""
    assert ["log: canary-3f9c1…"] == hits({CANARY}, {"log": b"x canary-3f9c1d y", "other": b"nothing"})
