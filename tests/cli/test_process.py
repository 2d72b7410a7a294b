"""The real process: `python -m broker` with its exit codes, its signals and its terminal."""

import asyncio
import os
import pty
import re
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import aiohttp
import pytest

from broker import __version__
from broker.__main__ import main
from tests.forking import fork
from tests.ports import free_port

from .stub import ACCESS_TOKEN, Stub, account, event

ENVIRON = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


async def start(*words: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", *words),
        stdout=PIPE,
        stderr=PIPE,
        env=ENVIRON,
        # A shell that runs the tests in the background has Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


async def run(
    folder: Path, *words: str, stdin: Path = Path(os.devnull), **environ: str
) -> tuple[int, str, str]:
    """One command in a forked process: exit code, standard output, standard error."""
    out, err = folder / "out.txt", folder / "err.txt"
    code = await (await fork(main, words, {**ENVIRON, **environ}, out, err, stdin)).wait()
    return code, out.read_text(), err.read_text()


async def ended(process: Process) -> tuple[int | None, str, str]:
    """Exit code, standard output, standard error."""
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_process_prints_a_token(stub: Stub, config: Path) -> None:
    """What a script sees."""
    stub.accounts = {"acme": account("acme")}

    process = await start("token", "acme", "--config", str(config))

    assert (0, f"{ACCESS_TOKEN}\n", "") == await ended(process)


async def test_the_process_fails_without_a_traceback(tmp_path: Path) -> None:
    """Exit 1 and one sentence."""
    ended = await run(tmp_path, "token", "acme", BROKER_ADMIN_SOCKET=str(tmp_path / "none.sock"))

    sentence = f"No broker answers at {tmp_path}/none.sock. Start it with: systemctl start token-broker\n"
    assert (1, "", sentence) == ended


async def test_the_installed_command_is_the_same(tmp_path: Path) -> None:
    """`broker` beside the interpreter runs what `python -m broker` runs."""
    script = Path(sys.executable).with_name("broker")
    process = await asyncio.create_subprocess_exec(
        script, "version", stdout=PIPE, stderr=PIPE, env={**ENVIRON, "BROKER_CONFIG": str(tmp_path / "none")}
    )

    assert (0, f"token-broker {__version__}\n", "") == await ended(process)


@pytest.mark.parametrize(
    ("typed", "expected"), [("n\n", (1, ["acme"])), ("\n", (1, ["acme"])), ("y\n", (0, []))]
)
async def test_removal_asks_on_a_terminal(
    stub: Stub, config: Path, tmp_path: Path, typed: str, expected: tuple[int, list[str]]
) -> None:
    """Anything but a yes leaves the account where it is."""
    stub.accounts = {"acme": account("acme")}
    ours, theirs = pty.openpty()

    os.write(ours, typed.encode())
    words = ("--config", str(config), "accounts", "remove", "acme", "--purge")
    code, _, err = await run(tmp_path, *words, stdin=Path(os.ttyname(theirs)))

    os.close(ours)
    os.close(theirs)
    assert expected == (code, list(stub.accounts))
    assert "Remove acme for good? [y/N]" in err


async def test_yes_is_not_asked_again_on_a_terminal(stub: Stub, config: Path, tmp_path: Path) -> None:
    """`--yes` says it all."""
    stub.accounts = {"acme": account("acme")}
    ours, theirs = pty.openpty()

    words = ("--config", str(config), "accounts", "remove", "acme", "--yes")
    code, _, err = await run(tmp_path, *words, stdin=Path(os.ttyname(theirs)))

    os.close(ours)
    os.close(theirs)
    assert (0, "", []) == (code, err, list(stub.accounts))


async def test_ctrl_c_ends_following_as_done(stub: Stub, config: Path) -> None:
    """Following has no other end, so this one is no failure."""
    stub.events, stub.goes_on = [event(1)], True
    process = await start("--config", str(config), "events", "--follow")
    assert process.stdout
    line = await process.stdout.readline()

    process.send_signal(signal.SIGINT)

    assert b"renewed" in line
    assert (0, "", "") == await ended(process)


async def test_check_works_where_no_broker_runs(tmp_path: Path) -> None:
    """Mistakes in the configuration are problems of the check; the exit code says so."""
    config = tmp_path / "config.toml"
    config.write_text("[server]\nintenral = 1\npublic = 2\n")

    code, out, err = await run(tmp_path, "check", "--config", str(config))

    assert (1, "2 problems found.\n") == (code, err)
    assert "server.intenral" in out


async def test_the_sandbox_runs_alone_until_it_is_stopped(tmp_path: Path) -> None:
    """It says where it answers, answers there, and SIGTERM ends it as done."""
    port = free_port()
    database = tmp_path / "sandbox.db"

    process = await start("sandbox", "--listen", f"127.0.0.1:{port}", "--database", str(database))
    assert process.stdout
    line = (await process.stdout.readline()).decode()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
        status = answer.status
    process.send_signal(signal.SIGTERM)

    assert re.search(rf"http://127\.0\.0\.1:{port}/", line)
    assert (200, 0) == (status, (await ended(process))[0])
    assert database.exists()


async def test_a_sandbox_on_a_port_that_is_taken_says_what_to_do(tmp_path: Path) -> None:
    """One sentence that names the option."""
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as taken:
        port = taken.sockets[0].getsockname()[1]
        words = ("sandbox", "--listen", f"127.0.0.1:{port}", "--database", str(tmp_path / "s.db"))
        code, _, err = await run(tmp_path, *words)

    assert (1, 1) == (code, err.count("\n"))
    assert "--listen" in err


async def test_a_sandbox_whose_file_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    """A file stands where a folder should be; the port is not blamed."""
    (tmp_path / "var").write_text("in the way")

    words = ("sandbox", "--listen", "127.0.0.1:0", "--database", str(tmp_path / "var" / "sandbox.db"))
    code, out, err = await run(tmp_path, *words)

    assert (1, "", 1) == (code, out, err.count("\n"))
    assert f"{tmp_path}/var" in err
    assert "--database" in err
    assert "--listen" not in err


async def test_systemd_install_lays_the_unit_and_says_what_is_next(tmp_path: Path) -> None:
    """Below `--root`, as packages do."""
    code, out, err = await run(tmp_path, "systemd", "install", "--root", str(tmp_path))

    unit = tmp_path / "etc/systemd/system/token-broker.service"
    assert (0, "") == (code, err)
    assert f"Wrote {unit}." in out
    assert unit.exists()


async def test_systemd_install_fails_where_it_may_not_write(tmp_path: Path) -> None:
    """A file stands where a folder should be; one sentence tells."""
    (tmp_path / "etc").write_text("in the way")

    code, out, err = await run(tmp_path, "systemd", "install", "--root", str(tmp_path))

    assert (1, "", 1) == (code, out, err.count("\n"))
    assert f"{tmp_path}/etc" in err


@pytest.mark.parametrize("content", ["no database " * 100, "somebody else's"])
async def test_the_sandbox_refuses_a_file_that_is_not_its_own(tmp_path: Path, content: str) -> None:
    """One sentence that names the file, which stays as it is."""
    database = tmp_path / "other.db"
    if content == "somebody else's":
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE accounts (name TEXT)")
        connection.close()
    else:
        database.write_text(content)
    before = database.read_bytes()

    code, out, err = await run(tmp_path, "sandbox", "--database", str(database))

    assert (1, "") == (code, out)
    assert re.fullmatch(
        rf"The sandbox cannot open {database}: .* database.*\. Choose another with --database\.\n", err
    )
    assert before == database.read_bytes()


async def test_serve_names_a_sandbox_file_that_is_none(tmp_path: Path) -> None:
    """Beside the broker too: the file is named, not the port."""
    config = tmp_path / "config.toml"
    config.write_text(f'[sandbox]\nenabled = true\nlisten = "127.0.0.1:{free_port()}"')
    (tmp_path / "var").mkdir(mode=0o700)
    (tmp_path / "var" / "sandbox.db").write_text("no database " * 100)

    code, _, err = await run(tmp_path, "serve", "--config", str(config))

    assert code == 1
    assert f"the sandbox cannot open {tmp_path}/var/sandbox.db: file is not a database" in err
    assert "Traceback" not in err
