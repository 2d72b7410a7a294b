"""`broker audit verify` with the real process: while it runs, after it has stopped, from files and from a pipe."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from broker.sandbox import visitor
from tests.process import Process, new_process

Lines = list[str]


@pytest.fixture(name="process")
async def _process(tmp_path: Path) -> AsyncIterator[Process]:
    """A broker that handed out tokens."""
    async with new_process(tmp_path / "run") as process:
        await process.start()
        link = await told(process, "/installs", {"provider": "kit", "account": "acme"})
        await visitor.install(link["install_url"])
        process.key = (await told(process, "/callers", {"name": "service", "accounts": ["*"]}))["key"]
        await ask(process, 3)
        yield process


async def told(process: Process, path: str, body: dict[str, object]) -> dict[str, str]:
    """What the admin socket answers; a command would cost another second."""
    connector = aiohttp.UnixConnector(path=str(process.folder / "var" / "admin.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"http://broker{path}", json=body) as answer,
    ):
        assert 201 == answer.status
        return dict(await answer.json())


async def ask(process: Process, times: int) -> None:
    for _ in range(times):
        assert 200 == (await process.get("/token/acme")).status


def path_of(process: Process) -> Path:
    return process.folder / "var" / "audit.jsonl"


async def piped(process: Process, text: bytes, *words: str) -> tuple[int, str]:
    """The command with that on its standard input."""
    given = process.folder / "given.jsonl"
    given.write_bytes(text)
    code, out, err = await process.run("audit", "verify", "-", *words, stdin=given)
    return code, out + err


async def test_running_broker_verifies_its_files(process: Process) -> None:
    """Up to the line that it wrote last; the second start names the head of the first, and an end cut off is missed."""
    await process.stop()
    await process.start()
    await ask(process, 3)
    lines = [json.loads(line) for line in path_of(process).read_text().splitlines()]
    starts = [number for number, line in enumerate(lines) if line["action"] == "audit.start"]

    whole = await process.run("audit", "verify")
    before = path_of(process).read_bytes()
    await ask(process, 1)
    path_of(process).write_bytes(before)
    cut = await process.run("audit", "verify")
    missing = await process.run("audit", "verify", "nowhere.jsonl")

    assert (1, "", "nowhere.jsonl cannot be read: No such file or directory.\n") == missing
    assert (0, "") == (whole[0], whole[2])
    assert whole[1].startswith(f"The audit is intact: {len(lines) + 1} lines of 2 starts, from 20")
    last = lines[starts[1] - 1]
    assert ([], "audit.stop") == (lines[0]["follows"], last["action"])
    assert [{name: last[name] for name in ("chain", "n", "mac")}] == lines[starts[1]]["follows"]
    assert 1 == cut[0]
    assert "has lost" in cut[2] or "missing at the end" in cut[2]


def edited(lines: Lines) -> Lines:
    number = token_line(lines)
    return [
        *lines[:number],
        lines[number].replace('"caller":"service"', '"caller":"nobody"'),
        *lines[number + 1 :],
    ]


def removed(lines: Lines) -> Lines:
    number = token_line(lines)
    return [*lines[:number], *lines[number + 1 :]]


def reordered(lines: Lines) -> Lines:
    number = token_line(lines)
    return [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]


def token_line(lines: Lines) -> int:
    return next(number for number, line in enumerate(lines) if '"action":"token"' in line)


HARM: dict[Callable[[Lines], Lines], str] = {
    edited: "was changed",
    removed: "has lost 1 line before it",
    reordered: "has lost 1 line before it",
}


async def test_harmed_line_is_named(process: Process, tmp_path: Path) -> None:
    """Exit 1 and one sentence with the file and the line, counted in its own file; through a pipe too, where log lines
    may stand between."""
    lines = path_of(process).read_text().splitlines(keepends=True)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text("".join(lines[:2]).rstrip("\n"))
    answers = []
    for harm in HARM:
        second.write_text("".join(harm(lines)[2:]))
        answers.append(await process.run("audit", "verify", str(first), str(second), "--part"))

    text = b'{"event":"broker.started"}\n' + path_of(process).read_bytes()

    whole = await piped(process, text)
    harmed = await piped(process, text.replace(b'"service"', b'"nobody"', 1))
    nothing = await piped(process, b"hello\n")

    assert [(1, "")] * len(HARM) == [(code, out) for code, out, _ in answers]
    start = f"The audit was tampered with or damaged: {second} line {token_line(lines) + 1 - 2}"
    assert [True] * len(HARM) == [
        err.startswith(f"{start} {what}") for (_, _, err), what in zip(answers, HARM.values(), strict=True)
    ], answers
    assert (0, True) == (whole[0], whole[1].startswith("The audit is intact"))
    assert (1, True) == (harmed[0], "was changed" in harmed[1])
    assert (1, True) == (nothing[0], "no line of the audit" in nothing[1])


async def test_stopped_broker_is_verified_too(process: Process) -> None:
    """The command opens the key ring itself, and knows from the store how far the audit went."""
    await process.stop()
    path = path_of(process)
    before = path.read_bytes()
    whole = await process.run("audit", "verify")
    pipe = await piped(process, before)
    untouched = path.read_bytes()
    path.write_bytes(b"".join(before.splitlines(keepends=True)[:-3]))
    cut = await process.run("audit", "verify")
    path.write_bytes(before)
    await process.start()
    again = await process.run("audit", "verify")

    assert (0, 0, before) == (whole[0], pipe[0], untouched), (whole, pipe)
    assert (1, True) == (cut[0], "3 lines are missing at the end" in cut[2]), cut
    assert (0, True) == (again[0], "of 2 starts" in again[1])


async def test_malformed_question_leaves_no_line(process: Process) -> None:
    """What is refused before it is decided is no look at the audit."""
    connector = aiohttp.UnixConnector(path=str(process.folder / "var" / "admin.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        statuses = []
        for query in ("part=x", "part=2", "part=1"):
            async with session.post(f"http://broker/audit/verify?{query}", data=b"") as answer:
                statuses.append(answer.status)
    actions = [json.loads(line)["action"] for line in path_of(process).read_text().splitlines()]

    assert [400, 400, 200] == statuses
    assert 1 == actions.count("audit.verify")
