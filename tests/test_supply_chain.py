"""What is installed is what was pinned, from whatever index the machine has; and somebody asks about its holes.

`requirements.txt` is what runs; `.ci/requirements.txt` is that and what the tests need.
"""

import asyncio
import os
import re
import sys
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from aiohttp import web
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.ports import free_port
from tests.until import moment

ROOT = Path(__file__).parent.parent
RUN, TESTS, BUILD = "requirements.txt", ".ci/requirements.txt", "packaging/requirements.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRY = re.compile(
    r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+?)(?: ;.*?)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    re.M,
)


def entries(lock: str) -> dict[str, list[tuple[str, ...]]]:
    """The versions of each package, with their hashes; some have one for each of several Pythons."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for entry in ENTRY.findall((ROOT / lock).read_text()):
        found.setdefault(canonicalize_name(entry[0]), []).append(entry)
    return found


def pinned(lock: str = TESTS) -> dict[str, str]:
    return {name: versions[-1][1] for name, versions in entries(lock).items()}


def needed(requirements: Iterable[str], *, everywhere: bool) -> set[str]:
    """The names that requirements lead to, from what is installed: on any machine, or only on this one."""
    names: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        one, extra = waiting.pop()
        wanted = one.marker is None or one.marker.evaluate({"extra": extra})
        if not wanted and not (everywhere and "extra" not in str(one.marker)):
            continue
        if (name := canonicalize_name(one.name)) not in names:
            names.add(name)
            with suppress(PackageNotFoundError):
                waiting += [
                    (Requirement(text), extra) for text in requires(name) or () for extra in ("", *one.extras)
                ]
    return names


@pytest.mark.parametrize("lock", [RUN, TESTS, BUILD])
def test_every_pin_has_a_version_and_hashes(lock: str) -> None:
    """And there is nothing else in the file: no index, no address, no option, nothing that is not exact."""
    text = (ROOT / lock).read_text()
    rest = [line for line in ENTRY.sub("", text).splitlines() if not re.fullmatch(r"\s*#.*|\s*", line)]

    assert len(pinned(lock)) > 10
    assert [] == rest


@pytest.mark.parametrize("lock", [RUN, BUILD])
def test_locks_agree(lock: str) -> None:
    """The suite runs with exactly what users run and what builds it: no version, hash or marker differs."""
    tests = entries(TESTS)

    assert {} == {name: versions for name, versions in entries(lock).items() if versions != tests.get(name)}


def test_what_runs_is_all_that_is_installed_to_run() -> None:
    """Each package is one that the service or PostgreSQL leads to, none is missing, and they are few."""
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["postgres"]]
    lock = pinned(RUN).keys()

    assert set() == lock - needed(asked, everywhere=True)
    assert set() == needed(asked, everywhere=False) - lock
    assert len(lock) < 40


@pytest.mark.parametrize(
    "name",
    [
        RUN,
        TESTS,
        BUILD,
        "packaging/build",
        "packaging/install",
        "packaging/deb",
        ".ci/setup",
        ".ci/run",
        ".ci/audit",
        ".ci/bare",
        "Makefile",
        "pyproject.toml",
    ],
)
def test_no_index_is_named(name: str) -> None:
    """The machine's own configuration says where packages come from."""
    text = (ROOT / name).read_text()

    assert not re.search(r"https?://|index-url|find-links|trusted-host|\[\[tool\.uv\.index", text)


def test_pins_satisfy_what_the_package_asks_for() -> None:
    """Of the service and of its development, build backend included."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    extras = PROJECT["optional-dependencies"].values()
    asked = [
        Requirement(text)
        for text in (
            *PROJECT["dependencies"],
            *(text for extra in extras for text in extra),
            *build,
        )
    ]
    versions = pinned()

    wrong = [
        str(one)
        for one in asked
        if not one.specifier.contains(versions.get(canonicalize_name(one.name), "0"))
    ]

    assert [] == wrong


def test_only_hashed_wheels_are_installed() -> None:
    """pip refuses what is not pinned; no code of a package runs while it is installed."""
    setup = (ROOT / ".ci" / "setup").read_text()

    assert re.findall(r" install --no-compile \\\n +(.*) <<", setup) == [
        '--require-hashes --only-binary :all: -r "$1"'
    ]
    assert re.findall(r"pip_install (.*)", setup) == [RUN, BUILD, '"$all"', TESTS]


async def audit(*, tools: Path = Path(sys.executable).parent, **environ: str) -> tuple[int, str]:
    """What `make check` does about vulnerabilities, with somebody else to ask."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        ".ci/audit",
        str(tools),
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "CI": "true",
            "PIP_AUDIT_VULNERABILITY_SERVICE": "osv",
            **environ,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize(
    ("hole", "code", "words"),
    [pytest.param(None, 0, "no known vulnerability", marks=pytest.mark.slow), ("aiohttp", 1, "OSV-2026-1")],
)
async def test_audit_fails_on_a_known_vulnerability_only(hole: str | None, code: int, words: str) -> None:
    """The real pip-audit, and a service that knows of one hole or of none; each pin is asked about."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        name = (await request.json())["package"]["name"]
        asked.append(name)
        found = [{"id": "OSV-2026-1", "affected": [], "summary": "a hole"}] if name == hole else []
        return web.json_response({"vulns": found} if found else {})

    application, port = web.Application(), free_port()
    application.add_routes([web.post("/v1/query", answer)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()

    result = await audit(PIP_AUDIT_OSV_URL=f"http://127.0.0.1:{port}/v1/query")
    await runner.cleanup()

    assert code == result[0], result[1]
    assert words in result[1]
    assert len(asked) > 50
    assert set(asked) <= pinned().keys()


@pytest.mark.slow
async def test_audit_is_skipped_with_one_line_where_nobody_answers() -> None:
    """CI does not fail only because it has no network."""
    code, output = await audit(PIP_AUDIT_OSV_URL=f"http://127.0.0.1:{free_port()}/")

    assert (0, 1) == (code, output.count("\n"))
    assert output.startswith("pip-audit: skipped, ")


async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer that never ends and never pauses for long, which no time-out of a socket notices."""
    writer.write(b"HTTP/1.1 200 OK\r\nX-Filler: ")
    with suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await moment()
    writer.close()


@pytest.mark.slow
async def test_audit_does_not_wait_for_ever() -> None:
    """Whatever the service does, `make check` ends."""
    server = await asyncio.start_server(trickle, "127.0.0.1", port := free_port())

    code, output = await audit(PIP_AUDIT_OSV_URL=f"http://127.0.0.1:{port}/", AUDIT_WITHIN="1")
    server.close()

    assert code == 0
    assert "skipped" in output


async def test_audit_that_cannot_run_fails(tmp_path: Path) -> None:
    """A missing tool is no missing network."""
    code, output = await audit(tools=tmp_path)

    assert code == 1
    assert "pip-audit does not run" in output
