"""What is logged: classes and places, names and numbers; each trap of a library closed by name."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import aiosqlite
import pytest
import structlog
from aiohttp import web

from broker.config.settings import LogSettings
from broker.http.edge import as_problem, edge, new_application
from broker.http.operations import public
from broker.http.server import QuietRunner
from broker.model import Secret
from broker.observe import logs
from tests.house import House
from tests.logged import logged
from tests.ports import free_port

CANARY = "canary-71c2-secret"
LOGGERS = ("aiohttp.access", "aiohttp.client", "aiohttp.server", "aiohttp.web", "aiosqlite", "asyncio")


@pytest.fixture(name="log")
def _log() -> Iterator[io.StringIO]:
    """What is logged in this process at its most talkative, as the broker would print it."""
    with logged() as written:
        yield written


@pytest.fixture(name="records")
def _records() -> Iterator[list[str]]:
    """Everything that the libraries hand to Python's logging, before anything of ours may drop it."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(f"{record.name} {self.format(record)}")

    listener = Listener()
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).addHandler(listener)
    yield heard
    for name in LOGGERS:
        logging.getLogger(name).removeHandler(listener)
        logging.getLogger(name).setLevel(before[name])


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


@public
async def plain(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


async def exchange(request: bytes) -> bytes:
    """What a listener of ours answers to these bytes."""
    application = new_application(edge(as_problem, listener="public", is_stopping=lambda: False))
    application.add_routes([web.get("/callback/kit", plain)])
    runner, port = QuietRunner(application), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await runner.cleanup()
    return answer


async def test_aiohttp_error_log_and_400_body_quote_nothing(log: io.StringIO, records: list[str]) -> None:
    """A malformed header line, `Authorization` included, is neither logged nor answered."""
    head = b"GET /callback/kit HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer "

    answer = await exchange(head + CANARY.encode() + b"\r\n\r\n")

    assert b" 400 " in answer.splitlines()[0]
    assert CANARY.encode() not in answer
    assert ["request.malformed"] == [line["event"] for line in lines(log)]
    assert CANARY not in log.getvalue()
    assert [] == [line for line in records if CANARY in line]


async def test_access_log_is_off(log: io.StringIO, records: list[str]) -> None:
    """It would write the query with its code and state; our own line has the route only."""
    logging.getLogger("aiohttp.access").setLevel(logging.DEBUG)
    head = f"GET /callback/kit?code={CANARY}&state={CANARY} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    await exchange(head.encode())

    assert ["/callback/kit"] == [line["route"] for line in lines(log)]
    assert CANARY not in log.getvalue()
    assert [] == records


async def test_repr_of_an_exception_is_not_logged(log: io.StringIO) -> None:
    """ContentTypeError's repr holds the request's headers, ours to the provider among them."""
    application = web.Application()
    application.add_routes([web.get("/", plain)])
    runner, port = web.AppRunner(application, access_log=None), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    caught: Exception | None = None
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {CANARY}"}) as answer,
    ):
        try:
            await answer.json()
        except aiohttp.ContentTypeError as exc:
            caught = exc
    await runner.cleanup()

    structlog.get_logger().error(
        "provider.odd", exc_info=caught, error=caught, all=[caught], by={"it": caught}
    )

    assert CANARY in repr(caught)
    assert "ContentTypeError" in log.getvalue()
    assert CANARY not in log.getvalue()


async def test_aiosqlite_at_debug_logs_no_parameter(
    log: io.StringIO, records: list[str], tmp_path: Path
) -> None:
    """The most talkative level of ours is not that of the libraries."""
    async with aiosqlite.connect(tmp_path / "db") as connection:
        await connection.execute_fetchall("SELECT ?", (CANARY,))

    assert [] == records
    assert CANARY not in log.getvalue()


def test_what_libraries_log_is_told_without_its_text(log: io.StringIO) -> None:
    """The logger, and class and place of the error."""
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("some.library").exception("cannot send %s", CANARY)

    [line] = lines(log)

    assert ("library.logged", "some.library", "ValueError") == (line["event"], line["logger"], line["error"])
    assert "test_what_libraries_log" in line["at"][0]
    assert CANARY not in log.getvalue()


async def test_forgotten_task_tells_its_class_only(log: io.StringIO) -> None:
    """asyncio prints the error of a task that nobody awaits; its text stays out."""

    async def fail() -> None:
        raise ValueError(CANARY)

    task = asyncio.ensure_future(fail())
    await asyncio.wait([task])
    del task

    assert ["asyncio"] == [line["logger"] for line in lines(log)]
    assert CANARY not in log.getvalue()


class Odd:
    """Something whose repr shows what it holds, as most do."""

    def __repr__(self) -> str:
        return CANARY


@pytest.mark.parametrize(
    "value",
    [
        Secret(CANARY),
        Odd(),
        CANARY.encode(),
        ValueError(CANARY),
        [Odd(), {"deep": (Secret(CANARY), Odd())}],
        {"k": {"k": Odd()}},
        f"tbk_000000000000_{CANARY.ljust(43, 'x')}",
        f"asked with Bearer {CANARY} in vain",
        f"asked with BEARER {CANARY} in vain",
        f"eyJhbGciOiJFZERTQSJ9.{CANARY}.c2ln",
    ],
)
@pytest.mark.parametrize("shape", ["json", "console"])
def test_field_shows_texts_and_numbers_only(log: io.StringIO, value: object, shape: Any) -> None:
    """A Secret, an error, bytes or any other object is named; what looks like a credential is starred."""
    logs.configure(LogSettings(format=shape, level="debug"), log)

    structlog.get_logger().info("it.happened", field=value)

    assert "it.happened" in log.getvalue()
    assert CANARY not in log.getvalue()


def test_field_keeps_what_is_harmless(log: io.StringIO) -> None:
    """Names, numbers and lists of them are for reading."""
    structlog.get_logger().info(
        "it.happened", name="acme", n=3, t=0.5, ok=True, none=None, of=["a", {"b": 1}]
    )

    [line] = lines(log)

    assert ("acme", 3, 0.5, True, None, ["a", {"b": 1}]) == tuple(
        line[key] for key in ("name", "n", "t", "ok", "none", "of")
    )


def test_terminal_is_not_commanded(log: io.StringIO) -> None:
    """A provider's word on a console: one line, no escape sequence."""
    logs.configure(LogSettings(format="console", level="debug"), log)

    structlog.get_logger().info("it.happened", word="a\x1b]0;pwned\x07b\nc\u202ed")

    assert 1 == log.getvalue().count("\n")
    assert [] == [one for one in ("\x1b]", "\x07", "\u202e") if one in log.getvalue()]


def test_journal_is_told_the_priority_of_each_line(tmp_path: Path) -> None:
    """`journalctl -p err` finds errors; an answered request, which is put together by hand, is information."""
    with (tmp_path / "stream").open("w+") as stream:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        logs.configure(LogSettings(format="json", level="debug"), stream, environ=environ)

        log = structlog.get_logger()
        for tell in (log.debug, log.info, log.warning, log.error, log.exception, log.critical):
            tell("it.happened")
        stream.flush()
        written = (tmp_path / "stream").read_text().splitlines()

    assert ["<7>", "<6>", "<4>", "<3>", "<3>", "<2>"] == [line[:3] for line in written]
    assert all(json.loads(line[3:])["event"] == "it.happened" for line in written)


@pytest.mark.parametrize("journal", [{}, {"JOURNAL_STREAM": "1:2"}])
def test_other_streams_get_plain_lines(tmp_path: Path, journal: dict[str, str]) -> None:
    """Under systemd, standard error may lead elsewhere."""
    with (tmp_path / "stream").open("w+") as stream:
        logs.configure(LogSettings(format="json", level="debug"), stream, environ=journal)
        structlog.get_logger().error("it.happened")
        stream.flush()

    assert (tmp_path / "stream").read_text().startswith("{")


CRASH = """
import gc, sys, threading
from broker.config.settings import LogSettings
from broker.observe import logs

logs.configure(LogSettings(format="json", level="info"))
logs.take_crashes()
canary = sys.stdin.read()

class Unraisable:
    def __del__(self):
        raise ValueError(canary)

def fail():
    raise ValueError(canary)

Unraisable()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
try:
    fail()
except ValueError as exc:
    raise RuntimeError(canary) from exc
"""


def test_uncaught_errors_print_no_text() -> None:
    """Of the process, of a thread, of a finalizer: one event each, with class and place."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", CRASH],
        input=CANARY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    events = [json.loads(line) for line in done.stderr.splitlines()]

    assert 1 == done.returncode
    assert [
        ("error.unraisable", "ValueError"),
        ("thread.crashed", "ValueError"),
        ("broker.crashed", "RuntimeError"),
    ] == [(event["event"], event["error"]) for event in events]
    assert all(event["at"] for event in events)
    assert CANARY not in done.stdout + done.stderr


ANSWER: dict[str, Any] = {
    "listener": "internal",
    "route": "/token/{account}",
    "method": "GET",
    "status": 200,
    "seconds": 0.0003,
    "request_id": "0123456789abcdef",
    "client": None,
    "caller": "crm",
}


async def test_line_of_a_request_follows_a_new_configuration(log: io.StringIO) -> None:
    """A reload that changes the level, the form or the stream reaches the line that is made by hand, too."""
    later, console = io.StringIO(), io.StringIO()
    logs.log_answer(**ANSWER)
    await asyncio.sleep(0)

    logs.configure(LogSettings(format="json", level="info"), later)
    logs.log_answer(**ANSWER | {"status": 201})
    await asyncio.sleep(0)
    logs.configure(LogSettings(format="json", level="warning"), later)
    logs.log_answer(**ANSWER | {"status": 202})
    logs.configure(LogSettings(format="console", level="info"), console)
    logs.log_answer(**ANSWER | {"status": 203})
    await asyncio.sleep(0)

    assert [[200], [201]] == [[line["status"] for line in lines(one)] for one in (log, later)]
    assert "203" in console.getvalue()
    assert "request.answered" in console.getvalue()


@pytest.mark.parametrize(
    "text",
    [None, "", "/token/{account}", "ü\u2028", '"\\', "x" * 900, "\n\x1b[1m", f"tbk_0123456789ab_{'k' * 43}"],
)
async def test_line_of_a_request_is_as_structlog_would_write_it(log: io.StringIO, text: str | None) -> None:
    """Made by hand, and the same: redacted, cut, on one line."""
    fields = ANSWER | dict.fromkeys(["route", "request_id", "client", "caller"], text)
    fields["request_id"] = text or ""
    logs.log_answer(**fields)
    await asyncio.sleep(0)
    usual_fields = {("ms" if name == "seconds" else name): value for name, value in fields.items()}
    structlog.get_logger().info("request.answered", **usual_fields | {"ms": 0.3})

    by_hand, usual = log.getvalue().splitlines()
    assert [*json.loads(by_hand)] == [*json.loads(usual)]
    assert by_hand.rpartition(", ")[0] == usual.rpartition(", ")[0]
    assert len(by_hand) == len(usual)


@pytest.mark.parametrize(("addresses", "lines_of_all"), [(1, 20), (3, 60), (5, 100), (900, 100)])
async def test_requests_without_a_credential_are_sampled(
    log: io.StringIO, addresses: int, lines_of_all: int
) -> None:
    """Twenty lines a second of one address, a hundred of all; one line more says how many are left out."""
    anonymous = logs.AnonymousRequests(every=0.0)
    for _ in range(2):
        taken = sum(anonymous.is_logged("request.answered", f"10.0.0.{n % addresses}") for n in range(1000))
        malformed = anonymous.is_logged("request.malformed", "10.0.0.0")
        for _ in range(3):
            await asyncio.sleep(0)

        told = lines(log)[-1]
        assert (lines_of_all, lines_of_all < 100) == (taken, malformed)
        assert "requests.not_logged" == told["event"]
        assert 1000 - lines_of_all + (not malformed) == told["requests"]
        assert min(addresses, 100) == told["addresses"]

    assert 2 == len(lines(log))


async def test_flood_without_a_credential_leaves_callers_their_lines(house: House) -> None:
    """Each request of a caller has its line, before, during and after a flood; so has each address a few."""
    await house.connect()
    with logged() as log:
        for number in range(90):
            await house.get("/token/acme", key="tbk_unknown")
            await house.get("/nowhere", key="tbk_unknown")
            if number % 10 == 0:
                await house.get("/token/acme")
        written = [line for line in lines(log) if line["event"] == "request.answered"]

    assert 9 == sum(line["caller"] == "service" for line in written)
    assert 20 <= sum(line["caller"] is None for line in written) <= 60
