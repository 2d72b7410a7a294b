"""`broker init` and `broker config`: a server's configuration from a few answers."""

import json
import os
import pty
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.cli import broker as command_line
from broker.cli import setup
from broker.cli.command import CommandContext
from broker.config import load

KIT = ("--public-url", "https://broker.example.com", "--kit-client-id", "an id", "--kit-app-id", "717")
SECRET = "k1t-s3cret-that-nobody-sees"


def run(path: Path, *words: str) -> Result:
    return CliRunner().invoke(command_line, list(words), obj=CommandContext(config=str(path), environ={}))


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "config.toml"


def init(path: Path, *words: str) -> Result:
    """With secrets in files, since /etc/credstore belongs to this machine."""
    return run(path, "init", "--non-interactive", "--secrets", str(path.parent / "secrets"), *words)


def test_init_makes_what_the_broker_starts_with(path: Path) -> None:
    """The configuration is valid once the client secret is there; the master key is random and private."""
    made = init(path, *KIT)
    secret = path.parent / "secrets/kit-client-secret"
    before = run(path, "config", "check")
    secret.write_text(SECRET)
    secret.chmod(0o600)
    settings = load(path, environ={})
    key = path.parent / "secrets/master-key"

    assert 0 == made.exit_code
    assert f"cat > {secret}" in made.stdout
    assert "redirect URI https://broker.example.com/callback/kit" in made.stdout
    assert "Authorization URL https://broker.example.com/install/kit" in made.stdout
    assert (1, 0) == (before.exit_code, run(path, "config", "check").exit_code)
    assert f"{secret}" in before.stderr
    assert {"kit"} == set(settings.providers)
    assert ("an id", 717) == (settings.providers["kit"].client.client_id, settings.providers["kit"].app_id)
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)
    assert 0o600 == stat.S_IMODE(key.stat().st_mode)
    assert 45 == key.stat().st_size


def test_init_overwrites_nothing(path: Path) -> None:
    """Neither a configuration nor a key nor a secret; the example of a package is nobody's configuration."""
    path.parent.mkdir()
    path.write_text(setup.example())
    secrets = path.parent / "secrets"
    secrets.mkdir(mode=0o700)
    for name in ("master-key", "kit-client-secret"):
        (secrets / name).write_text("mine")
    first = init(path, *KIT)
    written = path.read_text()
    second = init(path, *KIT, "--kit-app-id", "718")

    assert (0, 1) == (first.exit_code, second.exit_code)
    assert "exists, and nothing is overwritten" in second.stderr
    assert written == path.read_text()
    assert ["mine", "mine"] == [(secrets / name).read_text() for name in ("master-key", "kit-client-secret")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--public-url"),
        (("--public-url", "https://broker.example.com"), "--provider"),
        (("--public-url", "https://broker.example.com", "--provider", "kit"), "--kit-client-id"),
        (KIT[:4], "--kit-app-id"),
        ((*KIT, "--provider", "github"), "github"),
    ],
)
def test_what_is_missing_is_named(path: Path, words: tuple[str, ...], told: str) -> None:
    """With the option that says it; nothing is written."""
    missing = init(path, *words)

    assert 2 == missing.exit_code
    assert told in missing.stderr
    assert not path.parent.exists()


@pytest.mark.parametrize("url", ["http://broker.example.com", "https://broker.example.com/x", "broker", ""])
def test_bad_answer_writes_nothing(path: Path, url: str) -> None:
    """The configuration's own judgement, before anything is there."""
    refused = init(path, "--public-url", url, *KIT[2:])

    assert 1 == refused.exit_code
    assert "server.public_url" in refused.stderr
    assert not path.parent.exists()


@pytest.mark.parametrize("name", ["config.toml", "secrets/master-key"])
def test_init_replaces_no_link(path: Path, name: str) -> None:
    """Neither the link nor what it leads to is somebody else's to change, even where that is not there yet."""
    link = path.parent / name
    link.parent.mkdir(parents=True)
    link.symlink_to(path.parent / "elsewhere")
    refused = init(path, *KIT)

    assert 1 == refused.exit_code
    assert str(link) in refused.stderr
    assert link.is_symlink()
    assert not (path.parent / "elsewhere").exists()


def test_init_writes_through_no_link(path: Path) -> None:
    """A name that a half-written configuration has may lead elsewhere."""
    path.parent.mkdir()
    for name in ("config.toml.new", "config.toml.part"):
        (path.parent / name).symlink_to(path.parent / "elsewhere")
    made = init(path, *KIT)

    assert 0 == made.exit_code
    assert not path.is_symlink()
    assert not (path.parent / "elsewhere").exists()


def test_answer_that_is_not_utf8_is_named(path: Path) -> None:
    """As the command line hands on a byte that is no text."""
    refused = init(path, *KIT[:2], "--kustomer-client-id", "a\udcff")

    assert 2 == refused.exit_code
    assert "--kustomer-client-id is not UTF-8" in refused.stderr
    assert not path.parent.exists()


def test_answers_are_data(path: Path) -> None:
    """A quote, a backslash or a group reference in an id is part of the id."""
    odd = 'a"b\\1\\g<0>c'
    made = init(path, "--public-url", "https://broker.example.com", "--kustomer-client-id", odd)

    assert 0 == made.exit_code
    assert odd == tomllib.loads(path.read_text())["providers"]["kustomer"]["client_id"]


def test_default_is_systemd() -> None:
    """Every secret is a credential that the unit knows, and the addresses are those of its sockets."""
    answers = setup.Answers(
        "https://broker.example.com",
        {"kit": {"client_id": "x", "app_id": "1"}, "kustomer": {"client_id": "y"}},
    )
    data = tomllib.loads(setup.configuration(answers))
    units = Path(setup.__file__).parents[1] / "systemd"
    unit, sockets = ((units / f"token-broker.{kind}").read_text() for kind in ("service", "socket"))
    named = [data["keys"]["master"], *(table["client_secret"] for table in data["providers"].values())]

    assert all(
        f"LoadCredential={one['credential']}:token-broker.{one['credential']}" in unit for one in named
    )
    assert all(
        f"ListenStream={data['server'][key]}\n" in sockets for key in ("internal", "public", "admin_socket")
    )


def test_init_asks_on_a_terminal(path: Path) -> None:
    """One question for each answer that no option gave; the client secret is not shown."""
    answers = ("https://broker.example.com", "kit", "an id", "717", SECRET)
    control, terminal = pty.openpty()
    command = (sys.executable, "-m", "broker", "--config", path, "init", "--secrets", path.parent / "secrets")
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    for answer in answers:
        while not shown.endswith((b"? ", b": ")):
            shown += os.read(control, 4096)
        os.write(control, answer.encode() + b"\n")
        shown += os.read(control, 1)
    while True:
        try:
            shown += os.read(control, 4096)
        except OSError:
            break

    assert 0 == process.wait(60), shown.decode()
    assert SECRET.encode() not in shown
    assert SECRET == (path.parent / "secrets/kit-client-secret").read_text().strip()
    assert 717 == load(path, environ={}).providers["kit"].app_id


def test_check_takes_any_file(tmp_path: Path) -> None:
    """All mistakes at once, for people and for programs; exit 1."""
    file = tmp_path / "x.toml"
    file.write_text("[server]\ninternl = 3\n[log]\nlevel = 'loud'\n")
    told = run(tmp_path / "other.toml", "config", "check", str(file))
    shown = run(tmp_path / "other.toml", "config", "check", str(file), "--json")

    assert (1, 1) == (told.exit_code, shown.exit_code)
    assert all(key in told.stderr for key in (str(file), "server.internl", "log.level"))
    assert 2 <= len(json.loads(shown.stdout)["problems"])


EVERYTHING = """
[store]
url = "postgresql://me:{canary}@db/x"
[network]
proxy = "http://me:{canary}@proxy:3128"
[keys]
master = {{ file = "master.key" }}
[providers.kit]
client_id = "an id"
client_secret = ["{canary}", "{canary}2"]
app_id = 7
previous_clients = [{{ client_id = "old", client_secret = "{canary}" }}]
[providers.other]
type = "oauth2"
client_id = "x"
client_secret = "{canary}"
authorize_url = "https://id.example.com/a"
token_url = "https://id.example.com/t"
dead_errors = ["gone"]
[plugin]
enabled = true
[plugin.clients.kit]
client_id = "kit-plugin"
client_secret = "{canary}{canary}"
redirect_uris = ["https://app.kit.com/apps"]
[alerts]
webhook_url = "https://ops.example.com/{canary}"
webhook_secret = "whsec_{base64}"
"""


def test_show_has_every_key_and_no_secret(tmp_path: Path) -> None:
    """As TOML that says the same once the masks are secrets again; defaults are there, too."""
    canary, base64 = "CANARY-OF-SECRETS-0123456789abcdef", "Q0FOQVJZLU9GLVNFQ1JFVFMtMDEyMzQ1Njc4OQ=="
    path = tmp_path / "config.toml"
    path.write_text(EVERYTHING.format(canary=canary, base64=base64))
    path.chmod(0o600)
    shown = run(path, "config", "show")
    keys = json.loads(run(path, "config", "show", "--json").stdout)
    data = tomllib.loads(shown.stdout)

    assert 0 == shown.exit_code
    assert canary not in shown.stdout + json.dumps(keys)
    assert base64 not in shown.stdout
    assert ["***", "***"] == data["providers"]["kit"]["client_secret"]
    assert [{"client_id": "old", "client_secret": ["***"]}] == data["providers"]["kit"]["previous_clients"]
    assert ("900s", 7) == (data["refresh"]["ahead"], data["providers"]["kit"]["app_id"])
    assert ("***", "***") == (data["store"]["url"], data["network"]["proxy"])
    assert {"plugin.clients.kit.client_secret", "alerts.webhook_secret", "log.level"} <= set(keys)


def test_show_has_sockets_and_callers_as_the_file_has_them(tmp_path: Path) -> None:
    """A Unix listener is a table with its mode; a caller's proof has the names of its keys."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[server]\ninternal = { path = "api.sock", group = "services" }\n[callers.nightly]\nuid = 1001\n'
        '[callers.billing]\nissuer = "i"\nsubject = "s"\njwks_url = "https://i.example.com/keys"\n'
    )
    data = tomllib.loads(run(path, "config", "show").stdout)

    assert [{"path": f"{tmp_path}/api.sock", "mode": "0660", "group": "services"}] == data["server"][
        "internal"
    ]
    assert {"accounts", "permissions", "uid"} == set(data["callers"]["nightly"])
    assert ("i", "s") == (data["callers"]["billing"]["issuer"], data["callers"]["billing"]["subject"])
