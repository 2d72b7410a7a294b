"""What is installed is what was pinned, from whatever index the machine has; and somebody asks about its holes."""

import asyncio
import os
import re
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.ports import free_port

ROOT = Path(__file__).parent.parent
PINS = (ROOT / ".ci" / "requirements.txt").read_text()
ENTRY = re.compile(
    r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+?)(?: ;.*?)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    re.M,
)


def pinned() -> dict[str, str]:
    return {canonicalize_name(name): version for name, version, _ in ENTRY.findall(PINS)}


def test_every_pin_has_a_version_and_hashes() -> None:
    """And there is nothing else in the file: no index, no address, no option, nothing that is not exact."""
    rest = [line for line in ENTRY.sub("", PINS).splitlines() if not re.fullmatch(r"\s*#.*|\s*", line)]

    assert len(pinned()) > 50
    assert [] == rest


@pytest.mark.parametrize(
    "name", [".ci/requirements.txt", ".ci/setup", ".ci/run", ".ci/audit", "Makefile", "pyproject.toml"]
)
def test_no_index_is_named(name: str) -> None:
    """The machine's own configuration says where packages come from."""
    text = (ROOT / name).read_text()

    assert not re.search(r"https?://|index-url|find-links|trusted-host|\[\[tool\.uv\.index", text)


def test_pins_satisfy_what_the_package_asks_for() -> None:
    """Of the service and of its development, build backend included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    asked = [
        Requirement(text)
        for text in (
            *project["project"]["dependencies"],
            *(text for extra in extras for text in extra),
            *project["build-system"]["requires"],
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

    assert re.findall(r'"\$\{pip\[@\]\}" install (.*)', setup) == [
        "--require-hashes --only-binary :all: -r .ci/requirements.txt",
        "--no-deps --no-build-isolation --editable .",
    ]


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
    [(None, 0, "no known vulnerability"), ("aiohttp", 1, "OSV-2026-1")],
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
            await asyncio.sleep(0.2)
    writer.close()


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
