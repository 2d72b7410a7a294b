"""Grants move from one system to another and back: all of them, once, whatever is killed in between."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from broker.admin.overview import read_statistics
from broker.model import Status
from tests.commanding import Commands, commands_at
from tests.foreign import issued_elsewhere, line, write_lines
from tests.house import House, open_house
from tests.process import BROKER, Process, new_process
from tests.until import moment


@pytest.fixture(name="commands")
async def _commands(house: House) -> AsyncIterator[Commands]:
    async with commands_at(house) as commands:
        yield commands


@pytest.fixture(name="process")
async def _process(tmp_path: Path) -> AsyncIterator[Process]:
    async with new_process(tmp_path / "run") as process:
        await process.start()
        yield process


def grants_file(house: House | Process, count: int, **members: object) -> Path:
    pairs = issued_elsewhere(house, count)
    lines = [line(f"old-{number}", pair, **members) for number, pair in enumerate(pairs)]
    return write_lines(house.folder / "grants.jsonl", lines)


def spent(judged: Any) -> Counter[str]:
    """How often each refresh token was sent."""
    return Counter(one["token_sha256"] for one in judged["requests"] if one["kind"] == "refresh")


async def statuses(house: House, names: Iterable[str]) -> set[str]:
    return {(await house.get(f"/accounts/{name}")).json["status"] for name in names}


async def test_import_tells_each_line_and_skips_what_is_there(commands: Commands) -> None:
    """The second time nothing is sent to the provider."""
    house = commands.house
    file = grants_file(house, 3)

    first = await commands.run("accounts", "import", str(file))
    second = await commands.run("accounts", "import", str(file), "--json")

    told = {f"old-{number}: imported, active" for number in range(3)}
    assert (0, told) == (first.exit_code, set(first.stdout.splitlines()[:3]))
    assert first.stdout.endswith("\n3 imported, 0 skipped because they exist already.\n")
    assert "The old system must have stopped" in first.stderr
    again = json.loads(second.stdout)["accounts"]
    assert [(1, "skipped"), (2, "skipped"), (3, "skipped")] == [
        (one["line"], one["outcome"]) for one in again
    ]
    assert 3 == await house.refreshes()


async def test_failed_line_fails_the_import_and_no_other_line(commands: Commands) -> None:
    """It is named with its reason; what could be imported is."""
    house = commands.house
    [pair] = issued_elsewhere(house, 1)
    lines = [line("Wrong Name", pair), line("acme", pair), {"name": "zenith", "provider": "nobody"}]
    file = write_lines(house.folder / "grants.jsonl", lines)

    result = await commands.run("accounts", "import", str(file))

    assert 1 == result.exit_code
    assert "acme: imported, active" in result.stdout
    assert "line 1: failed: an account's name is lower-case" in result.stdout
    assert "zenith: failed: refresh_token is missing" in result.stdout
    assert "2 failed of 3 accounts; see each above." in result.stderr


async def test_import_goes_on_where_a_renewal_is_missing(commands: Commands) -> None:
    """What was stored and not proved is proved by the next import of the same."""
    house = commands.house
    house.sandbox.faults.set("kit", status=503, headers={"Retry-After": "20"}, times=1)
    file = grants_file(house, 1)

    first = await commands.run("accounts", "import", str(file))
    house.clock.advance(30)
    second = await commands.run("accounts", "import", str(file))

    assert (1, 0) == (first.exit_code, second.exit_code)
    assert "old-0: stored, not proved, active: Not renewed: The provider asked" in first.stdout
    assert "old-0: skipped: exists already, proved now" in second.stdout


@pytest.mark.parametrize("shape", ["list", "lines"])
async def test_import_reads_lists_lines_and_standard_input(commands: Commands, shape: str) -> None:
    """However the old table was written out."""
    pairs = issued_elsewhere(commands.house, 2)
    lines = [line(f"old-{number}", pair, verify=False) for number, pair in enumerate(pairs)]
    text = json.dumps(lines, indent=1) if shape == "list" else "\n\n".join(map(json.dumps, lines))

    result = await commands.run("accounts", "import", "-", typed=text)

    assert (0, "2 imported, 0 skipped because they exist already.") == (
        result.exit_code,
        result.stdout.splitlines()[-1],
    )


BROKEN = {
    "no JSON": ('{"name": "a", "refresh_token": "SECRET', 0o600, "line 1 is not a JSON object"),
    "no object": ('{"name": "a"}\n["SECRET"]', 0o600, "line 2 is not a JSON object"),
    "repeated member": ('{"name": "a", "name": "SECRET"}', 0o600, "line 1 is not a JSON object"),
    "list of texts": ('["SECRET"]', 0o600, "entry 1 is not a JSON object"),
    "nothing": ("\n", 0o600, "There is no account in"),
    "open to others": ('{"refresh_token": "SECRET"}', 0o644, "chmod 600"),
}


async def test_unfit_file_is_refused_before_anything_is_sent(commands: Commands) -> None:
    """In one sentence that quotes nothing of it."""
    results = {name: await typed_with(commands, text, mode) for name, (text, mode, _) in BROKEN.items()}

    assert {(1, "", 1)} == {(one.exit_code, one.stdout, one.stderr.count("\n")) for one in results.values()}
    assert [] == [name for name, one in results.items() if BROKEN[name][2] not in one.stderr]
    assert not any("SECRET" in one.stderr for one in results.values())


async def typed_with(commands: Commands, text: str, mode: int) -> Result:
    file = commands.house.folder / "grants.jsonl"
    file.write_text(text)
    file.chmod(mode)
    return await commands.run("accounts", "import", str(file))


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.proof)])
async def test_many_accounts_are_imported(commands: Commands, count: int) -> None:
    """All of them, none twice; each is proved by one renewal."""
    file = grants_file(commands.house, count)

    result = await commands.run("accounts", "import", str(file))

    assert (0, f"{count} imported, 0 skipped because they exist already.") == (
        result.exit_code,
        result.stdout.splitlines()[-1],
    )
    assert {("kit", "active"): count} == await counts(commands.house)
    sent = spent(await commands.house.judge())
    assert (count, {1}) == (len(sent), set(sent.values()))


async def test_grants_move_to_another_broker_and_are_never_renewed_by_two(
    commands: Commands, tmp_path: Path
) -> None:
    """The first is frozen; the second renews. The sandbox has seen no token twice."""
    house = commands.house
    for number in range(3):
        await house.connect("kit", f"acme-{number}", account=f"{30 + number}")
    file = tmp_path / "moved.jsonl"

    exported = await commands.run("accounts", "export", "--yes", str(file))
    async with beside(house, tmp_path / "second") as second, commands_at(second) as others:
        imported = await others.run("accounts", "import", str(file))
        house.clock.advance(172800 - 60)
        tokens = [await second.get(f"/token/acme-{number}") for number in range(3)]
        refused = [await house.get(f"/token/acme-{number}") for number in range(3)]

    assert (0, f"{file} holds 3 accounts, frozen here.\n") == (exported.exit_code, exported.stdout)
    assert (0o600, 3) == (file.stat().st_mode & 0o777, len(file.read_text().splitlines()))
    assert (0, "3 imported, 0 skipped because they exist already.") == (
        imported.exit_code,
        imported.stdout.splitlines()[-1],
    )
    assert [200] * 3 == [token.status for token in tokens]
    assert {"frozen"} == await statuses(house, [f"acme-{number}" for number in range(3)])
    assert {1} == set(spent(await house.judge()).values())
    assert 3 == len([answer for answer in refused if answer.status in (200, 409)])


@asynccontextmanager
async def beside(house: House, folder: Path) -> AsyncIterator[House]:
    """A second broker, which asks the first one's sandbox."""
    async with open_house(folder, clock=house.clock) as second:
        second.sandbox = house.sandbox
        second.write_config()
        await second.restart()
        yield second


async def test_export_never_goes_to_standard_output_or_over_a_file(commands: Commands) -> None:
    """Refresh tokens are not for terminals, pipes and files of somebody's choosing."""
    house = commands.house
    await house.connect()
    there = house.folder / "there"
    there.touch()

    results = [
        await commands.run("accounts", "export", "--yes", name) for name in ("-", "/dev/stdout", str(there))
    ]

    assert [2, 1, 1] == [result.exit_code for result in results]
    assert b"" == there.read_bytes()
    assert None is (await house.account()).frozen


async def test_export_without_a_match_leaves_no_file(commands: Commands) -> None:
    """Nor half of one beside it."""
    folder = commands.house.folder / "out"
    folder.mkdir()

    result = await commands.run("accounts", "export", "--yes", "--account", "no-*", str(folder / "f"))

    assert (1, "Nothing was exported: no account matches.\n") == (result.exit_code, result.stderr)
    assert [] == list(folder.iterdir())


async def test_killed_broker_loses_no_import(process: Process) -> None:
    """kill -9 in the middle of an import, start, the same import again: every grant is there and lives."""
    count = 24
    file = grants_file(process, count)
    importing = asyncio.create_task(process.run("accounts", "import", str(file)))
    while sum(spent(await process.judge()).values()) < 6:
        await moment()

    await process.kill()
    code, _, err = await importing
    await process.start()
    again, out, err_again = await process.run("accounts", "import", str(file))

    assert 1 == code
    assert f"of {count} were imported. Repeat the command: it skips these." in err
    judged = await process.judge()
    assert (0, count) == (again, len([line for line in out.splitlines() if line.startswith("old-")])), (
        err_again
    )
    assert all(grant["live"] for grant in judged["grants"])
    assert 1 == judged["max_outstanding_per_token"]


@pytest.mark.proof
async def test_killed_import_goes_on(process: Process) -> None:
    """kill -9 of the command itself: what it sent is there, and the next one does the rest."""
    count = 40
    file = grants_file(process, count)
    command = await asyncio.create_subprocess_exec(
        *BROKER,
        *("--config", str(process.config), "accounts", "import", str(file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert command.stdout is not None
    await command.stdout.readline()

    command.send_signal(signal.SIGKILL)
    await command.wait()
    code, out, _ = await process.run("accounts", "import", str(file))

    judged = await process.judge()
    summary = out.splitlines()[-1]
    assert 0 == code
    assert summary.endswith("skipped because they exist already.")
    assert count == sum(int(word) for word in summary.replace(",", "").split() if word.isdigit())
    assert {1} == set(spent(judged).values())
    assert all(grant["live"] for grant in judged["grants"])


async def counts(house: House) -> Mapping[tuple[str, Status], int]:
    """By provider and status, as the store has it."""
    return (await read_statistics(house.broker.context.stores.accounts, house.clock.now())).counts
