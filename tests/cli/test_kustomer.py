"""`broker kustomer` registers an app at (the sandbox's) Kustomer and makes its secret."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from broker.cli import broker as command_line
from broker.clock import SystemClock
from broker.config.values import TcpListen
from broker.sandbox import Sandbox

KEY = "api-key-canary"
BACK = "https://broker.example.com/callback/kustomer"
Type = Callable[..., Awaitable[Result]]


@pytest.fixture(name="sandbox")
async def _sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(
        listen=TcpListen("127.0.0.1", 0),
        database=tmp_path / "sandbox.db",
        clock=SystemClock(),
        broker_public_url="https://broker.example.com",
    )
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


async def run(*words: str, key: str = KEY) -> Result:
    """One command, with the API key on standard input; in a thread, since it has its own event loop."""
    return await asyncio.to_thread(CliRunner().invoke, command_line, ["kustomer", *words], input=f"{key}\n")


def registering(sandbox: Sandbox, *more: str) -> tuple[str, ...]:
    api = f"{sandbox.base_url}/kustomer"
    return ("register-app", "tokenbroker", "--redirect-uri", BACK, "--api-url", api, *more)


async def test_app_is_registered_and_gets_a_secret(sandbox: Sandbox, tmp_path: Path) -> None:
    """The name and id that Kustomer gave, the redirect URI, and a secret in a file nobody else may read."""
    api, file = f"{sandbox.base_url}/kustomer", tmp_path / "kustomer-secret"

    registered = json.loads((await run(*registering(sandbox, "--json"))).stdout)
    app = registered["app"]
    made = await run("create-secret", app, "--api-url", api, "--secret-file", str(file))
    again = await run("create-secret", app, "--api-url", api)

    secret = file.read_text().strip()
    assert ["app", "version", "client_id"] == list(registered)
    assert app.startswith("tokenbroker_")
    assert (0, 0o600, True) == (made.exit_code, file.stat().st_mode & 0o777, secret not in made.stdout)
    assert registered["client_id"] in made.stdout
    assert re.fullmatch(r"sbx-kus-secret-\S+\n", again.stdout) and again.stdout.strip() != secret
    assert KEY not in registered.values() and KEY not in made.stdout + made.stderr


async def test_next_steps_are_told(sandbox: Sandbox) -> None:
    """Install it first: before that Kustomer answers “Invalid Client”."""
    result = await run(*registering(sandbox))

    assert "App Directory" in result.stdout and "Invalid Client" in result.stdout
    assert "broker kustomer create-secret tokenbroker_" in result.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--app-version", "x"), "is not a version"),
        (("--api-url", "ftp://x"), "is not an address"),
        (("--redirect-uri", "http://broker.example.com/callback"), "is not an address"),
    ],
)
async def test_wrong_usage_asks_nothing(sandbox: Sandbox, words: tuple[str, ...], told: str) -> None:
    """2, before the key is read."""
    result = await run(*registering(sandbox, *words))

    assert (2, True) == (result.exit_code, told in result.stderr)


async def test_version_twice_is_told(sandbox: Sandbox) -> None:
    """Versions are permanent."""
    await run(*registering(sandbox))

    result = await run(*registering(sandbox))

    assert (1, True) == (result.exit_code, "raise --app-version" in result.stderr)


async def test_unknown_app_is_told(sandbox: Sandbox) -> None:
    """Neither spelling of the path leads to it."""
    result = await run("create-secret", "nosuch", "--api-url", f"{sandbox.base_url}/kustomer")

    assert (1, True) == (result.exit_code, "knows no such app" in result.stderr)


async def test_no_key_is_told(sandbox: Sandbox) -> None:
    """With the roles that it needs."""
    result = await run(*registering(sandbox), key="")

    assert (1, True) == (result.exit_code, "org.admin.apps and org.permission.apps" in result.stderr)


async def test_nobody_there_is_told(sandbox: Sandbox) -> None:
    """Without a traceback or the key."""
    await sandbox.stop()

    result = await run(*registering(sandbox))

    assert (1, True, False) == (result.exit_code, "cannot be reached" in result.stderr, KEY in result.output)


@pytest.fixture(name="oddly")
async def _oddly() -> AsyncIterator[Callable[[int, Any], str]]:
    """A Kustomer that answers as told; what it was asked is in its list."""
    answers: list[tuple[int, Any]] = []

    async def answer(_: web.Request) -> web.Response:
        status, body = answers[-1]
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers={"Location": "https://elsewhere.example"})

    app = web.Application()
    app.add_routes([web.post("/{any:.*}", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    def told(status: int, body: Any) -> str:
        answers.append((status, body))
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield told
    await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, {"errors": [{"message": "no"}]}, "refuses the API key (“no”)"),
        (403, "", "refuses the API key."),
        (400, {"errors": [{"message": "bad\x1b[31m title"}]}, "answered 400"),
        (302, "", "answered 302"),
        (500, "<html>", "answered 500"),
        (200, "not json", "names no app"),
        (200, {"data": {"attributes": {}}}, "names no app"),
        (200, [1], "names no app"),
        (200, {"data": {"attributes": {"name": "a", "clientId": "c"}}}, "holds no secret"),
        (200, {"data": {"attributes": {"name": "a", "clientId": "c", "clientSecret": 5}}}, "holds no secret"),
    ],
)
async def test_odd_answer_is_told_in_one_line(
    oddly: Callable[[int, Any], str], status: int, body: Any, told: str
) -> None:
    """Whatever comes back; nothing of it plays with the terminal."""
    result = await run("create-secret", "app", "--api-url", oddly(status, body))

    assert (1, 1) == (result.exit_code, len(result.stderr.splitlines()))
    assert told in result.stderr
    assert result.stderr.strip().isprintable()


async def test_newer_spelling_of_the_path_is_tried(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where the name alone is unknown, name and version are asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if not request.path.endswith("app_1-0.0.2/secret"):
            return web.json_response({"errors": []}, status=404)
        found = {"name": "app_1", "clientId": "c", "clientSecret": "s"}
        return web.json_response({"data": {"attributes": found}})

    app = web.Application()
    app.add_routes([web.post("/{any:.*}", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = f"http://127.0.0.1:{runner.addresses[0][1]}"

    result = await run("create-secret", "app_1", "--app-version", "0.0.2", "--api-url", api)
    await runner.cleanup()

    assert "s\n" == result.stdout
    assert ["/v1/apps/available/app_1/secret", "/v1/apps/available/app_1-0.0.2/secret"] == asked


async def test_file_that_cannot_be_written_is_told(sandbox: Sandbox, tmp_path: Path) -> None:
    """The secret is lost then, and not printed."""
    app = json.loads((await run(*registering(sandbox, "--json"))).stdout)["app"]

    result = await run(
        *("create-secret", app, "--api-url", f"{sandbox.base_url}/kustomer"),
        *("--secret-file", str(tmp_path / "no" / "such")),
    )

    assert (1, False) == (result.exit_code, "sbx-kus-secret" in result.output)
    assert "cannot be written" in result.stderr
