"""What holds for every command: where the configuration comes from, how commands fail, what their help shows."""

import asyncio
import fcntl
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import click
import pytest
from aiohttp import web
from click.testing import CliRunner

from broker import __version__
from broker.__main__ import main
from broker.cli import broker as command_line
from broker.cli.admin_socket import AdminSocket
from broker.cli.command import Command, CommandContext
from broker.cli.output import Failed
from tests.fakes.clock import FakeClock
from tests.until import moment

from .conftest import Run
from .stub import ACCESS_TOKEN, NOW, Stub, account

FIRST_DELIVERY = [
    "serve",
    "init",
    "config-check",
    "config-show",
    "check",
    "token",
    "install-link",
    "sandbox",
    "events",
    "dashboard",
    "completion",
    "audit-verify",
    "version",
    "adopt",
    "accounts-list",
    "accounts-show",
    "accounts-refresh",
    "accounts-rename",
    "accounts-freeze",
    "accounts-test",
    "accounts-unfreeze",
    "accounts-remove",
    "accounts-restore",
    "accounts-import",
    "accounts-export",
    "callers-add",
    "callers-list",
    "callers-rotate",
    "callers-remove",
    "providers-list",
    "providers-resume",
    "systemd-install",
    "systemd-alerts",
    "plugin-connect-code",
    "plugin-grants",
    "plugin-remove",
    "kustomer-register-app",
    "kustomer-create-secret",
    "keys-list",
    "keys-add",
    "keys-rewrap",
    "keys-remove",
    "backup",
    "reload",
    "restore",
    "migrate",
]


def leaves(
    group: click.Group, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that lead to it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*above, name))
        else:
            yield (*above, name), command


COMMANDS = dict(leaves(command_line))


def invoke(*words: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    result = CliRunner().invoke(
        command_line, words, obj=CommandContext(environ=environ, clock=FakeClock(NOW))
    )
    return result.exit_code, result.stdout, result.stderr


def test_every_command_of_the_first_delivery_is_there() -> None:
    """No more and no less than the pages say."""
    assert sorted(FIRST_DELIVERY) == sorted("-".join(path) for path in COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    """Its help fits eighty columns, takes `--config` and ends with an example of itself."""
    code, out, _ = invoke(*path, "--help")

    help_text, _, example = out.partition("\nExample:\n")
    assert 0 == code
    assert "--config PATH" in help_text
    assert re.search(rf"broker (--config \S+ )?{' '.join(path)}\b", example)
    assert max(len(line) for line in out.splitlines()) <= 80


WITHOUT_JSON = {
    ("serve",): "prints its log, whose format is a key of [log]",
    ("completion",): "prints a script for a shell",
    ("systemd", "alerts"): "prints a file for Prometheus",
}
"""And why."""


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_that_prints_something_has_json(path: tuple[str, ...]) -> None:
    """And only the root says its own version."""
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}

    assert (path not in WITHOUT_JSON) == ("--json" in options)
    assert "--version" not in options


@pytest.mark.parametrize(
    ("former", "name"),
    [(("keys", "new"), "add"), (("keys", "drop"), "remove"), (("plugin", "revoke"), "remove")],
)
def test_former_names_still_work(former: tuple[str, str], name: str) -> None:
    """They are not shown any more."""
    code, out, _ = invoke(*former, "-h")

    assert (0, True) == (code, f"broker {former[0]} {name}" in out)
    assert f"  {former[1]} " not in invoke(former[0], "-h")[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script(shell: str) -> None:
    """As click makes it."""
    code, out, _ = invoke("completion", shell)

    assert (0, True) == (code, f"_BROKER_COMPLETE={shell}_complete" in out)


@pytest.mark.parametrize("columns", [None, "80"])
async def test_table_in_a_pipe_has_a_line_for_each_row(config: Path, stub: Stub, columns: str | None) -> None:
    """However long: what reads it goes by lines. A shell that exports COLUMNS changes nothing."""
    stub.accounts = {"a" * 128: account("a" * 128, status="frozen", reason="operator")}

    runner, words = CliRunner(env={"COLUMNS": columns}), ("accounts", "list", "--config", str(config))
    result = await asyncio.to_thread(runner.invoke, command_line, words, obj=CommandContext(environ={}))

    [_, row] = result.stdout.splitlines()
    assert ["a" * 128, "kit", "frozen,", "operator"] == row.split()[:4]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_is_of_the_kind_that_takes_config(path: tuple[str, ...]) -> None:
    """So nobody can add one that forgets it."""
    assert isinstance(COMMANDS[path], Command)


@pytest.mark.parametrize(
    "words",
    [
        ("accounts", "remove", "acme"),
        ("accounts", "remove", "acme", "--purge"),
        ("accounts", "export", "/nowhere/grants.jsonl"),
        ("callers", "remove", "reporting"),
        ("keys", "drop", "0123456789abcdef"),
        ("plugin", "revoke", "0123456789abcdef"),
    ],
)
async def test_what_destroys_is_refused_where_nobody_can_be_asked(
    run: Run, stub: Stub, words: tuple[str, ...]
) -> None:
    """Wrong usage; the broker is asked nothing."""
    result = await run(*words)

    assert (2, "", []) == (result.exit_code, result.stdout, stub.asked)
    assert "confirm it with --yes" in result.stderr


@pytest.mark.parametrize(
    "shape",
    [
        ("--config", "{config}", "accounts", "show", "acme", "--json"),
        ("accounts", "--config", "{config}", "show", "acme", "--json"),
        ("accounts", "show", "--config", "{config}", "acme", "--json"),
        ("accounts", "show", "acme", "--json", "--config", "{config}"),
        ("--config", "/nowhere/config.toml", "accounts", "show", "acme", "--json", "--config", "{config}"),
    ],
)
async def test_config_may_stand_before_or_after_the_name(
    stub: Stub, config: Path, shape: tuple[str, ...]
) -> None:
    """The last one given counts."""
    stub.accounts = {"acme": account("acme")}
    words = [word.format(config=config) for word in shape]

    code, _, err = await asyncio.to_thread(invoke, *words)

    assert (0, "", "GET /accounts/acme") == (code, err, stub.last.what)


@pytest.mark.parametrize("variable", ["BROKER_CONFIG", "BROKER_ADMIN_SOCKET"])
async def test_the_environment_may_say_where_the_broker_is(
    stub: Stub, config: Path, admin_socket: Path, variable: str
) -> None:
    """By the configuration or by the socket itself, which needs no configuration at all."""
    stub.accounts = {"acme": account("acme")}
    place = {"BROKER_CONFIG": config, "BROKER_ADMIN_SOCKET": admin_socket}[variable]

    code, out, _ = await asyncio.to_thread(invoke, "token", "acme", **{variable: str(place)})

    assert (0, f"{ACCESS_TOKEN}\n") == (code, out)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("accounts",),
        ("nonsense",),
        ("token",),
        ("token", "acme", "--nonsense"),
        ("token", "Acme"),
        ("token", "../accounts"),
        ("token", "acme", "--min-ttl", "soon"),
        ("token", "acme", "--min-ttl", "-1"),
        ("token", "acme", "--format", "xml"),
        ("accounts", "list", "--status", "broken"),
        ("accounts", "list", "--expiring-within", "2 hours"),
        ("accounts", "rename", "acme"),
        ("accounts", "rename", "acme", "with space"),
        ("callers", "add", "reporting"),
        ("callers", "add", "Reporting", "--account", "*"),
        ("callers", "add", "r" * 65, "--account", "*"),
        ("callers", "add", "reporting", "--account", "*", "--permission", "all"),
        ("callers", "add", "reporting", "--account", "*", "--expires", "0s"),
        ("install-link",),
        ("install-link", "Kit"),
        ("events", "--limit", "0"),
        ("events", "--follow", "--limit", "100"),
        ("token", "acme", "--json", "--format", "header"),
        ("token", "acme", "--format", "token", "--json"),
        ("dashboard", "--sessions", "--sign-out"),
        ("dashboard", "--sign-out", "--sessions"),
        ("providers", "resume", "a/b"),
        ("sandbox", "--listen", "8089"),
        ("sandbox", "--listen", "127.0.0.1:70000"),
        ("serve", "--port", "65534"),
    ],
    ids=" ".join,
)
async def test_wrong_usage_ends_with_two_and_asks_nobody(
    run: Run, stub: Stub, words: tuple[str, ...]
) -> None:
    """It is told before anything is sent."""
    result = await run(*words)

    assert (2, "", []) == (result.exit_code, result.stdout, stub.asked)
    assert result.stderr.startswith("Usage: ")


def test_no_broker_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Where it was looked for, and what would start it."""
    config = tmp_path / "config.toml"
    config.write_text('[server]\nadmin_socket = "admin.sock"\n')

    answer = invoke("token", "acme", "--config", str(config))

    sentence = f"No broker answers at {tmp_path}/admin.sock. Start it with: systemctl start token-broker\n"
    assert (1, "", sentence) == answer


def test_store_that_a_process_holds_is_told(tmp_path: Path) -> None:
    """A long start by hand: the broker has its store's lock before it has a socket."""
    config, lock = tmp_path / "config.toml", tmp_path / "x.db.lock"
    config.write_text('[server]\nadmin_socket = "none.sock"\n[store]\nurl = "sqlite:x.db"\n')
    told = f"Process {os.getpid()} has locked the store {tmp_path}/x.db: a broker that starts or stops, or a command."

    with lock.open("w") as held:
        before = invoke("version", "--config", str(config))
        fcntl.flock(held, fcntl.LOCK_EX)
        version = invoke("version", "--config", str(config))
        code, checked, _ = invoke("check", "--json", "--config", str(config))

    assert (0, f"token-broker {__version__}\n", "") == before
    assert (0, f"token-broker {__version__}\nnot running: {told}\n", "") == version
    [line] = json.loads(checked)["checks"]
    assert (1, "broker", "problem", told) == (code, line["what"], line["level"], line["detail"])


def test_a_socket_that_a_dead_broker_left_is_no_broker(tmp_path: Path) -> None:
    """A refused connection is told like a missing socket."""
    path = tmp_path / "admin.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()

    code, _, err = invoke("events", BROKER_ADMIN_SOCKET=str(path))

    assert (1, f"No broker answers at {path}. Start it with: systemctl start token-broker\n") == (code, err)


@pytest.mark.parametrize(("text", "said"), [(None, "cannot be read"), ("[server", "is not TOML")])
def test_a_configuration_that_cannot_be_read_is_told_in_one_sentence(
    tmp_path: Path, text: str | None, said: str
) -> None:
    """Without it nobody knows where the broker is."""
    config = tmp_path / "config.toml"
    if text is not None:
        config.write_text(text)

    code, out, err = invoke("accounts", "list", "--config", str(config))

    assert (1, "", 1) == (code, out, err.count("\n"))
    assert said in err


async def test_something_else_on_the_socket_is_told_in_one_sentence(tmp_path: Path) -> None:
    """A program that does not speak HTTP is no reason for a traceback."""
    path = tmp_path / "other.sock"

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    async with await asyncio.start_unix_server(babble, path):
        code, out, err = await asyncio.to_thread(invoke, "version", "--json", BROKER_ADMIN_SOCKET=str(path))
        told = await asyncio.to_thread(invoke, "accounts", "list", BROKER_ADMIN_SOCKET=str(path))

    assert (0, "") == (code, err)
    assert '"running": null' in out
    assert (1, "", f"The broker at {path} broke off its answer. See its log.\n") == told


@pytest.mark.parametrize(
    ("status", "text"), [(200, "<p>hello"), (200, "[]"), (500, "{}"), (502, "bad gateway")]
)
async def test_a_web_server_that_is_no_broker_is_told_in_one_sentence(
    tmp_path: Path, status: int, text: str
) -> None:
    """Neither a page nor an error without a reason is taken for an answer."""
    path = tmp_path / "other.sock"

    async def serve_page(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=text)

    runner = web.ServerRunner(web.Server(serve_page))
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()

    told = await asyncio.to_thread(invoke, "accounts", "list", BROKER_ADMIN_SOCKET=str(path))

    await runner.cleanup()
    assert (1, "", f"What answers at {path} does not talk like a broker (status {status}).\n") == told


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"]
)
async def test_a_broker_that_trickles_is_not_waited_for(tmp_path: Path, head: bytes) -> None:
    """However often a byte comes: patience is about the whole answer."""
    path, gone = tmp_path / "admin.sock", asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                await moment()
        writer.close()
        gone.set()

    async with await asyncio.start_unix_server(trickle, path):
        with pytest.raises(Failed, match="has not answered within"):
            await asyncio.to_thread(AdminSocket(path).ask, "GET", "/accounts", patience=0.05)
        await gone.wait()


EXPORTED = b'{"grant": {"name": "acme"}, "client_id": "c"}\n'
PIECE = b"%x\r\n%s\r\n" % (len(EXPORTED), EXPORTED)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + EXPORTED,
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + EXPORTED,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + PIECE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + PIECE + PIECE[:20],
    ],
    ids=["head", "no-length", "length", "between-chunks", "in-a-chunk"],
)
async def test_a_broker_that_dies_in_mid_answer_is_told(tmp_path: Path, answer: bytes) -> None:
    """What came before is no whole answer: no file is left that looks like one, and nothing ends as done."""
    path, file = tmp_path / "admin.sock", tmp_path / "out"

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(die, path):
        told = {
            await asyncio.to_thread(invoke, *words, BROKER_ADMIN_SOCKET=str(path))
            for words in (
                ("accounts", "export", "--yes", str(file)),
                ("backup", str(file)),
                ("events", "--follow"),
                ("accounts", "list"),
            )
        }

    assert {(1, "", f"The broker at {path} broke off its answer. See its log.\n")} == told
    assert not file.exists()


@pytest.mark.parametrize("args", [["--help"], ["version"], ["systemd", "alerts"], ["callers", "--help"]])
def test_full_device_is_told(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In a sentence, and with the exit code of a failure."""
    with Path("/dev/full").open("w") as full, redirect_stdout(full), pytest.raises(SystemExit) as ended:
        main(args)

    assert 1 == ended.value.code
    assert "Standard output cannot be written: No space left on device.\n" == capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r"])
def test_every_locale_is_good_enough(tmp_path: Path, encoding: str) -> None:
    """A letter that it does not have is written by its number."""
    args = ["--config", str(tmp_path / "\u2192\udcff.toml"), "check"]
    said = tmp_path / "said"
    with said.open("w", encoding=encoding) as out, redirect_stdout(out), redirect_stderr(out):
        with pytest.raises(SystemExit) as ended:
            main(args)
        out.flush()

    assert 1 == ended.value.code
    assert b"cannot be read" in said.read_bytes()


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_what_is_closed_is_no_reason_to_fail(closed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As under a supervisor that closes all three."""
    before = getattr(sys, closed)
    try:
        setattr(sys, closed, None)
        with pytest.raises(SystemExit) as ended:
            main(["version"])
    finally:
        setattr(sys, closed, before)

    assert 0 == ended.value.code
    assert "Traceback" not in capsys.readouterr().err


def test_reader_that_goes_away_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """As `broker … | head` does."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe, redirect_stdout(pipe), pytest.raises(SystemExit) as ended:
        main(["systemd", "alerts"])

    assert 1 == ended.value.code
    assert "" == capsys.readouterr().err
