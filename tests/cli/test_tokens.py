"""`broker token` and `broker install-link` print one value and nothing else."""

import asyncio
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from tests.commanding import commands_at
from tests.house import House
from tests.until import moment

from .conftest import Run
from .stub import ACCESS_TOKEN, LINK, Asked, Stub, account, provider


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], f"{ACCESS_TOKEN}\n"),
        (["--format", "token"], f"{ACCESS_TOKEN}\n"),
        (["--format", "header"], f"Authorization: Bearer {ACCESS_TOKEN}\n"),
        (["--format", "env"], f"ACCESS_TOKEN={ACCESS_TOKEN}\n"),
    ],
)
async def test_a_token_is_printed_alone_and_unwrapped(
    run: Run, stub: Stub, options: list[str], expected: str
) -> None:
    """However long it is, it stays on one line."""
    stub.accounts = {"acme": account("acme")}

    result = await run("token", "acme", *options)

    assert (0, expected, "") == (result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize("options", [["--format", "json"], ["--json"], ["--json", "--format", "JSON"]])
async def test_a_token_as_json_is_the_apis_answer(run: Run, stub: Stub, options: list[str]) -> None:
    """Scripts that want more than the token get everything."""
    stub.accounts = {"acme": account("acme")}

    result = await run("token", "acme", *options)

    answer = json.loads(result.stdout)
    assert (ACCESS_TOKEN, 11700, 17) == (answer["access_token"], answer["expires_in"], answer["generation"])


@pytest.mark.parametrize(("options", "query"), [([], {}), (["--min-ttl", "600"], {"min_ttl": "600"})])
async def test_min_ttl_is_asked_for_only_when_typed(
    run: Run, stub: Stub, options: list[str], query: dict[str, str]
) -> None:
    """It has no default, so looking never renews."""
    stub.accounts = {"acme": account("acme")}

    await run("token", "acme", *options)

    assert Asked("GET /token/acme", query) == stub.last


async def test_a_warning_goes_to_standard_error(run: Run, stub: Stub) -> None:
    """The token is still alone on standard output."""
    stub.accounts, stub.warning = {"acme": account("acme")}, "Kit cannot be reached"

    result = await run("token", "acme")

    assert (f"{ACCESS_TOKEN}\n", "Warning: Kit cannot be reached\n") == (result.stdout, result.stderr)


async def test_an_unknown_account_prints_no_token(run: Run) -> None:
    """A script that forgets the exit code gets an empty string, never a message as a token."""
    result = await run("token", "nobody")

    assert (1, "", "There is no account 'nobody'.\n") == (result.exit_code, result.stdout, result.stderr)


async def test_an_error_of_ours_names_the_request(run: Run, stub: Stub) -> None:
    """What the person reports can be found in the log."""
    stub.accounts, stub.crashes = {"acme": account("acme")}, True

    result = await run("token", "acme")

    assert 1 == result.exit_code
    assert "(request id 0123456789abcdef)" in result.stderr


async def test_an_install_link_is_printed_alone_and_unwrapped(run: Run, stub: Stub) -> None:
    """The link can be pasted as it is; without options the provider's id names the account."""
    stub.providers = {"kit": provider("kit")}

    result = await run("install-link", "kit")

    assert (0, f"{LINK}\n", "") == (result.exit_code, result.stdout, result.stderr)
    body = {"provider": "kit", "account": None, "org": None, "return_to": None, "replace": False}
    assert Asked("POST /installs", {}, body) == stub.last


async def test_an_install_link_carries_what_was_typed(run: Run, stub: Stub) -> None:
    """Every option reaches the broker."""
    stub.providers = {"kustomer": provider("kustomer")}
    options = [
        "--account",
        "acme",
        "--org",
        "acme-inc",
        "--return-to",
        "https://app.example.com/",
        "--replace",
    ]

    await run("install-link", "kustomer", *options)

    body = {
        "provider": "kustomer",
        "account": "acme",
        "org": "acme-inc",
        "return_to": "https://app.example.com/",
        "replace": True,
    }
    assert Asked("POST /installs", {}, body) == stub.last


async def test_a_link_for_an_unknown_provider_fails(run: Run) -> None:
    """The broker's sentence is the message."""
    result = await run("install-link", "kit")

    assert (1, "There is no provider 'kit'; there are: none.\n") == (result.exit_code, result.stderr)


async def test_a_token_in_a_file_is_for_its_owner_alone(run: Run, stub: Stub, tmp_path: Path) -> None:
    """It replaces what was there, whole, and nothing is printed."""
    stub.accounts, file = {"acme": account("acme")}, tmp_path / "token"
    file.write_text("old")

    result = await run("token", "acme", "--format", "header", "--to", str(file))

    assert (0, "", "") == (result.exit_code, result.stdout, result.stderr)
    assert f"Authorization: Bearer {ACCESS_TOKEN}\n" == file.read_text()
    assert (0o600, [file]) == (stat.S_IMODE(file.stat().st_mode), list(tmp_path.glob("token*")))


async def test_a_file_that_cannot_be_written_is_named(run: Run, stub: Stub, tmp_path: Path) -> None:
    """A folder in its place, a folder that is missing; and nothing is watched without a file.

    As root, replacing /dev/null or /dev/stdout would damage the machine.
    """
    stub.accounts = {"acme": account("acme")}
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "own").write_text("x")
    (tmp_path / "stdout").symlink_to("own")

    results = [
        await run("token", "acme", "--watch", "--to", str(tmp_path / "folder")),
        await run("token", "acme", "--watch", "--to", str(tmp_path / "missing" / "token")),
        await run("token", "acme", "--watch"),
    ]

    assert [1, 1, 2] == [one.exit_code for one in results]
    assert f"{tmp_path}/folder cannot be written" in results[0].stderr
    assert f"{tmp_path}/missing/token cannot be written: No such file" in results[1].stderr
    assert "--watch needs --to FILE" in results[2].stderr
    for name in ("pipe", "link", "stdout"):
        before = (tmp_path / name).lstat()
        result = await run("token", "acme", "--to", str(tmp_path / name))
        assert (1, before) == (result.exit_code, (tmp_path / name).lstat())
        assert f"{tmp_path}/{name} cannot be written: it is no regular file" in result.stderr


@pytest.mark.parametrize(("shape", "is_reused"), [("env", False), ("json", True)])
async def test_a_watched_file_follows_the_token(
    house: House, tmp_path: Path, shape: str, is_reused: bool
) -> None:
    """It is written again as soon as the token is renewed; what keeps the next one away is said once.

    Also where the provider answers the same token with a later end.
    """
    await house.connect()
    house.sandbox.faults.set("kit", reuse_access_token=is_reused)
    file, config = tmp_path / "token", house.folder / "config.toml"
    async with commands_at(house):
        watching = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "broker", "token", "acme", "--config", str(config)),
            *("--format", shape, "--watch", "--to", str(file)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert watching.stderr
        while not file.exists():
            await moment()
        first = file.read_text()
        house.clock.advance(3600)
        await house.post("/token/acme/refresh")
        while file.read_text() == first:
            await moment()
        second, token = file.read_text(), (await house.get("/token/acme")).json["access_token"]
        await house.post("/accounts/acme/freeze")
        house.clock.advance(172_800)
        said = await watching.stderr.readline()
        watching.terminate()
        await watching.wait()

    assert second == file.read_text()
    assert f"ACCESS_TOKEN={token}\n" == second or (2, token) == (
        (found := json.loads(second))["generation"],
        found["access_token"],
    )
    assert b"The file keeps the last token." in said
