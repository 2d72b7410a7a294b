"""What a configuration file leads to: settings, or every mistake at once."""

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.config import ConfigError, Settings, admin_socket_of, load, locate, reloadable
from broker.config.secrets import SecretMissing, SecretReader
from broker.config.settings import CommandKey, DeadError, FileKey, NetworkSettings, Rotation
from broker.config.values import TcpListen, UnixListen
from broker.model import Secret

CANARY = "canary-5e1f"
PRIVATE_PEM = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIHRva2VuLWJyb2tlciBzYW5kYm94IGxvZ2luIGtleSEh
-----END PRIVATE KEY-----
"""
KIT = '[providers.kit]\nclient_id = "c"\nclient_secret = "s"\n'
ANY = '[providers.x]\ntype = "oauth2"\nclient_id = "c"\nauthorize_url = "https://x.example/a"\n'


def settings(
    tmp_path: Path, text: str, environ: dict[str, str] | None = None, port: int | None = None
) -> Settings:
    (tmp_path / "config.toml").write_text(text)
    return load(tmp_path / "config.toml", environ=environ or {}, port=port)


def problems(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text, environ)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[server]\nfoo = 1", "server.foo", "unknown key"),
        ("[serve]\ninternal = 'x'", "serve", "did you mean server"),
        ("[server]\ninternl = 'x'", "server.internl", "did you mean server.internal"),
        ("[server]\ninternal = 'localhost'", "server.internal", "host:port"),
        ("[server]\ninternal = 'example.com:80'", "server.internal", "host:port"),
        ("[server]\ninternal = '127.0.0.1:99999'", "server.internal", "host:port"),
        ("[server]\ninternal = '0.0.0.0:80'", "server.internal", "internal_plaintext"),
        ("[server]\ninternal = { path = 'a', mode = '9' }", "server.internal", "host:port"),
        ("[server]\ninternal = []", "server.internal", "host:port"),
        ("[server]\npublic_url = 'ftp://x'", "server.public_url", "scheme and host only"),
        ("[server]\npublic_url = 'http://example.com'", "server.public_url", "https"),
        ("[server]\npublic_url = 'https://example.com/x'", "server.public_url", "scheme and host only"),
        ("[server]\npublic_url = 'https://u@example.com'", "server.public_url", "scheme and host only"),
        ("[server]\nmetrics_from = ['x']", "server.metrics_from", "networks"),
        ("[server]\ntrusted_proxies = ['x']", "server.trusted_proxies", "networks"),
        ("[server]\ntrusted_proxies = ['10.0.0.1/8']", "server.trusted_proxies", "networks"),
        ("[server]\ntrusted_proxies = ['0.0.0.0/0']", "server.trusted_proxies", "your own proxies"),
        ("[server]\ntrusted_proxies = '10.0.0.1'", "server.trusted_proxies", "a list"),
        ("[server]\ninternal_tls = { cert = 'a' }", "server.internal_tls", "cert"),
        ("[store]\nurl = 'mysql://x/y'", "store.url", "sqlite:PATH"),
        ('[store]\nurl = "postgresql://"', "store.url", "sqlite:PATH"),
        ('[store]\nurl = "sqlite:/"', "store.url", "sqlite:PATH"),
        ("[store]\nmemory = 0", "store.memory", "at least 1"),
        ("[store]\nmemory = true", "store.memory", "whole number"),
        ('[store]\nurl = "sqlite:a\\u0000b"', "store.url", "odd characters"),
        ('[providers.kit]\nclient_id = "c\\n"\nclient_secret = "s"', "providers.kit.client_id", "printable"),
        ('[providers.kit]\nclient_id = " c"\nclient_secret = "s"', "providers.kit.client_id", "printable"),
        ("[keys]\nmaster = 'x'", "keys.master", "file"),
        ("[keys]\nmaster = { credential = 'k' }", "keys.master", "systemd"),
        ("[refresh]\nahead = 5", "refresh.ahead", "with its unit"),
        ("[refresh]\nahead = '5'", "refresh.ahead", "duration"),
        ("[refresh]\nahead = '5 m'", "refresh.ahead", "duration"),
        ("[refresh]\ntimeout = '0s'", "refresh.timeout", "at least 1 s"),
        ("[refresh]\ntimeout = '1h'", "refresh.timeout", "10m"),
        ("[refresh]\nbackground = 'yes'", "refresh.background", "true or false"),
        ("[audit]\nto = 'syslog'", "audit.to", "journald"),
        ("[log]\nlevel = 'loud'", "log.level", '"info"'),
        ("[sandbox]\nlisten = { path = 'x' }", "sandbox.listen", "host:port"),
        ("[pluggin]\nenabled = true", "pluggin", "unknown key"),
        ("[alerts]\nx = 1", "alerts", "unknown key"),
        ("[providers.kit]", "providers.kit.client_id", "found nothing"),
        (KIT + "endpoints = 'global'", "providers.kit.endpoints", '"app"'),
        (KIT + "app_id = 'x'", "providers.kit.app_id", "whole number"),
        (KIT + "rotation = 'sometimes'", "providers.kit.rotation", '"strict"'),
        (KIT + "grace = '10s'", "providers.kit.grace", "rotation"),
        (KIT + "scopes = ['a b']", "providers.kit.scopes", "each on its own"),
        (KIT + "body = 'xml'", "providers.kit.body", '"form"'),
        (KIT + "token_url = 'http://example.com/t'", "providers.kit.token_url", "https"),
        (KIT + "token_url = 'https://{org}/t'", "providers.kit.token_url", "only a part"),
        (KIT + "token_url = 'https://u:p@x.example/t'", "providers.kit.token_url", "without user"),
        (
            KIT + "authorize_params = { state = 'x' }",
            "providers.kit.authorize_params.state",
            "broker sets it",
        ),
        (KIT + "authorize_params = { x = 1 }", "providers.kit.authorize_params", "strings"),
        (KIT + "identity_pointer = 'id'", "providers.kit.identity_pointer", "JSON pointer"),
        (KIT + "default_expires_in = 'x'", "providers.kit.default_expires_in", "number of seconds"),
        (KIT + "token_pointer = 'data'", "providers.kit.token_pointer", "JSON pointer"),
        (KIT + "token_type = 'MAC'", "providers.kit.token_type", '"Bearer"'),
        (KIT + "dead_errors = 'gone'\ntoken_pointer = ''", "providers.kit.token_pointer", "JSON pointer"),
        (KIT + "dead_errors = [5]", "providers.kit.dead_errors", "words, or tables"),
        (KIT + "dead_errors = ['']", "providers.kit.dead_errors", "words, or tables"),
        (KIT + "dead_errors = [{ word = 'x' }]", "providers.kit.dead_errors", "words, or tables"),
        (KIT + "dead_errors = [{ description = 'x' }]", "providers.kit.dead_errors", "words, or tables"),
        (KIT + "dead_errors = ['invalid_request']", "providers.kit.dead_errors", "exact description"),
        (KIT + "dead_errors = ['Server_Error']", "providers.kit.dead_errors", "exact description"),
        (
            "[providers.kit]\nclient_id = 'a:b'\nclient_secret = 's'\nclient_auth = 'basic-raw'",
            "providers.kit.client_auth",
            "colon",
        ),
        (
            KIT + "dead_errors = [{ error = 'access_denied' }]",
            "providers.kit.dead_errors",
            "exact description",
        ),
        (KIT + "type = 'hubspot'", "providers.kit.type", '"oauth2"'),
        (ANY, "providers.x.token_url", "knows none by itself"),
        (
            ANY + "token_url = 'https://x.example/t'\nendpoints = 'app'",
            "providers.x.endpoints",
            "unknown key",
        ),
        (
            ANY + "token_url = 'https://x.example/t'\nclient_auth = 'basic'",
            "providers.x.client_auth",
            "client_secret",
        ),
        (
            ANY + "token_url = 'https://x.example/t'\nidentity_url = 'https://x.example/m'",
            "providers.x.identity_pointer",
            "both of them",
        ),
        ("[providers.KIT]\nclient_id = 'c'", "providers.KIT", "lower-case"),
        ("[login]\nurl = 'https://x.example/'", "login.key", "public key"),
        ("[login]\nurl = 'http://x.example/'\nkey = 'x'", "login.url", "https"),
        ("[login]\nurl = 'https://x.example/'\nkey = 'x'", "login.key", "no public key"),
        (
            f"[login]\nurl = 'https://x.example/'\nkey = '''{PRIVATE_PEM}'''",
            "login.key",
            "never the private one",
        ),
    ],
)
def test_mistake_is_named(tmp_path: Path, text: str, key: str, hint: str) -> None:
    """The key's full name, and what would be right."""
    found = problems(tmp_path, text)

    assert any(line.startswith(f"{key}") and hint in line for line in found), found


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """Nobody mends a file one restart at a time."""
    found = problems(
        tmp_path, "[refresh]\nahead = 1\ntimeout = 2\n[log]\nlevel = 3\n[nothing]\n[providers.kit]\n"
    )

    assert 5 == len(found)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, and one that is not TOML, in a sentence each."""
    with pytest.raises(ConfigError, match="--config PATH"):
        load(tmp_path / "none.toml", environ={})
    assert "line 1" in problems(tmp_path, "[[[")[0]


@pytest.mark.parametrize(
    "text", [f"a = {'[' * 1500}", f"{'.'.join('a' * 1500)} = 1", f"a = {'{b = ' * 1500}"]
)
def test_file_that_nests_too_deeply(tmp_path: Path, text: str) -> None:
    """A sentence as well; the parser and the walk over its result are recursive."""
    assert ["its tables and lists nest too deeply"] == [
        one.rpartition(": ")[2] for one in problems(tmp_path, text)
    ]


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (os.mkfifo, "it is a pipe, no regular file"),
        (socket_at, "it is a socket, no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, no regular file"),
        (lambda path: path.mkdir(), "Is a directory"),
    ],
    ids=["pipe", "socket", "device", "folder"],
)
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], told: str
) -> None:
    """A pipe would be waited for, and a device never ends."""
    odd = tmp_path / "odd"
    make(odd)
    text = "[network]\nca_file = 'odd'\n" + KIT.replace('"s"', '{ file = "odd" }')

    with pytest.raises(ConfigError, match=f"{odd}: cannot be read .{told}"):
        load(odd, environ={})
    ca, secret = problems(tmp_path, text)

    assert f"{odd}, which cannot be read ({told})" in ca
    assert f"{odd}, which cannot be read ({told})" in secret


@pytest.mark.parametrize(
    "form", ["list of three", "number", "env", "file", "open file", "credential", "odd table"]
)
def test_no_problem_quotes_a_secret(tmp_path: Path, form: str) -> None:
    """A secret in the wrong place is still one."""
    (tmp_path / "open").write_text(CANARY)
    (tmp_path / "open").chmod(0o644)
    value = {
        "list of three": f'["{CANARY}", "{CANARY}", "{CANARY}"]',
        "number": "5",
        "env": '{ env = "NOT_SET" }',
        "file": '{ file = "missing" }',
        "open file": '{ file = "open" }',
        "credential": '{ credential = "x" }',
        "odd table": f'{{ value = "{CANARY}" }}',
    }[form]

    found = problems(tmp_path, f'[providers.kit]\nclient_id = "c"\nclient_secret = {value}')

    assert [True] == [line.startswith("providers.kit.client_secret") for line in found]
    assert CANARY not in str(found)


def test_secrets_come_from_where_they_are(tmp_path: Path) -> None:
    """Environment, file, systemd credential, or the file itself; two while one is being replaced."""
    (tmp_path / "secret").write_text("from file\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "kit").write_text("from systemd")
    environ = {"KIT": "from environment", "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}

    found = [
        settings(tmp_path, f'[providers.kit]\nclient_id = "c"\nclient_secret = {value}', environ)
        .providers["kit"]
        .client.secrets
        for value in ('{ env = "KIT" }', '{ file = "secret" }', '{ credential = "kit" }', '["a", "b"]')
    ]

    assert [
        (Secret("from environment"),),
        (Secret("from file"),),
        (Secret("from systemd"),),
        (Secret("a"), Secret("b")),
    ] == found


SOURCES = ("string", "env", "file", "credential")


def from_source(source: str, text: str, folder: Path) -> tuple[str, dict[str, str]]:
    """`text` as a secret in that place: the value in the file, and the environment."""
    (folder / "credentials").mkdir()
    for name in ("secret", "credentials/kit"):
        (folder / name).write_bytes(text.encode())
        (folder / name).chmod(0o600)
    value = {
        "string": json.dumps(text),
        "env": '{ env = "KIT" }',
        "file": '{ file = "secret" }',
        "credential": '{ credential = "kit" }',
    }[source]
    return value, {"KIT": text, "CREDENTIALS_DIRECTORY": str(folder / "credentials")}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("left", ["{}\n", "{}\r\n", "{}\n\n\n", "\ufeff{}", "\ufeff{}\r\n", "\n{}"], ids=repr)
def test_what_editors_leave_around_a_secret_is_left_out(tmp_path: Path, source: str, left: str) -> None:
    """Wherever the secret comes from."""
    value, environ = from_source(source, left.format("s3cret"), tmp_path)
    found = settings(tmp_path, f'[providers.kit]\nclient_id = "c"\nclient_secret = {value}', environ)

    assert (Secret("s3cret"),) == found.providers["kit"].client.secrets


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{CANARY}\nother", "character 12 is U+000A"),
        (f"{CANARY}\tx", "character 12 is U+0009"),
        (f"{CANARY}\u200b", "character 12 is U+200B"),
        (f"{CANARY}\u00e4", "character 12 is U+00E4"),
        (f"\u00a0{CANARY}", "a blank"),
        (f"{CANARY} ", "a blank"),
        (f'"{CANARY}"', "in quotes"),
        (f"'{CANARY}'\n", "in quotes"),
        ("\n", "is empty"),
    ],
    ids=ascii,
)
def test_what_no_secret_holds_is_refused(tmp_path: Path, source: str, text: str, told: str) -> None:
    """RFC 6749 appendix A.2, and what shells and `.env` files leave; the secret itself is not told."""
    value, environ = from_source(source, text, tmp_path)
    [found] = problems(tmp_path, f'[providers.kit]\nclient_id = "c"\nclient_secret = {value}', environ)

    assert found.startswith("providers.kit.client_secret: found ")
    assert told in found
    assert CANARY not in found


def test_webhook_secret_may_hold_any_letter(tmp_path: Path) -> None:
    """It is no secret of OAuth; but it stands on one line as well."""
    text = '[alerts]\nwebhook_url = "https://x.example/"\nwebhook_secret = { env = "HOOK" }'

    found = settings(tmp_path, text, {"HOOK": "schl\u00fcssel\n"}).alerts.webhook

    assert found is not None
    assert ("schl\u00fcssel".encode(),) == found.keys
    assert "U+000A" in problems(tmp_path, text, {"HOOK": "a\nb"})[0]


@pytest.mark.parametrize(
    ("mode", "read_only", "taken", "warned"),
    [
        (0o400, False, True, False),
        (0o440, False, True, False),
        (0o640, False, True, False),
        (0o444, False, False, False),
        (0o444, True, True, True),
        (0o644, True, True, True),
        (0o660, False, False, False),
        (0o604, False, False, False),
    ],
)
def test_mode_of_a_secret_file(tmp_path: Path, mode: int, read_only: bool, taken: bool, warned: bool) -> None:
    """Its group may read it. On a mount that nobody can write to, what cannot be mended is told and taken."""
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "secret").chmod(mode)
    reader = SecretReader(folder=tmp_path, environ={}, is_read_only=lambda _: read_only)

    if taken:
        assert Secret("s3cret") == reader.read({"file": "secret"})
    else:
        with pytest.raises(SecretMissing, match=f"open to others .mode {mode:o}.; expected chmod 600"):
            reader.read({"file": "secret"})
    assert warned is any("secret is open to others" in warning for warning in reader.warnings)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbf" + KIT.encode(),
        b"\xff\xfe" + KIT.encode("utf-16-le"),
        b"\xfe\xff" + KIT.encode("utf-16-be"),
        b"\xef\xbb\xbf" + KIT.replace("\n", "\r\n").encode(),
        b"\xff\xfe\0\0" + KIT.encode("utf-32-le"),
        b"\0\0\xfe\xff" + KIT.encode("utf-32-be"),
    ],
    ids=["utf-8", "utf-16-le", "utf-16-be", "utf-8-crlf", "utf-32-le", "utf-32-be"],
)
def test_file_with_a_byte_order_mark(tmp_path: Path, raw: bytes) -> None:
    """As Windows' editors and PowerShell write it."""
    (tmp_path / "config.toml").write_bytes(raw)

    assert "c" == load(tmp_path / "config.toml", environ={}).providers["kit"].client.client_id


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"[server]\npublic_url = \xe2\x80\x9cx\xe2\x80\x9d", "line 2 holds U+201C"),
        (b"[server]\n\xc2\xa0public_url = 'x'", "line 2 holds U+00A0"),
        (b"# \xe2\x80\x9c\n[store]\xe2\x80\x8b\n", "line 2 holds U+200B"),
        (b"[server]\npublic_url\xe3\x80\x80= 'x'", "line 2 holds U+3000"),
        (b"# \xe2\x80\xa8\n[server]\xe2\x80\xa8\n", "line 2 holds U+2028"),
        (
            b"[server]\npublic_url = '\xfc'",
            "line 2 holds the byte 0xFC; save it as UTF-8",
        ),
        (b"\r\n# \x93\r\n", "line 2 holds the byte 0x93; save it as UTF-8"),
        (b"[server]\r# \x80\r", "line 2 holds the byte 0x80; save it as UTF-8"),
        (b"\xff\xfe[", "is not whole UTF-16 text; save it as UTF-8"),
        (KIT.encode("utf-16-le"), "line 1 is UTF-16 or UTF-32 without a mark; save it as UTF-8"),
        (KIT.encode("utf-16-be"), "line 1 is UTF-16 or UTF-32 without a mark; save it as UTF-8"),
        ("# \u4e2d\u6587\n[server]".encode("utf-16-le"), "line 1 is UTF-16 or UTF-32 without a mark"),
        (KIT.encode("utf-32-be"), "line 1 is UTF-16 or UTF-32 without a mark; save it as UTF-8"),
        (KIT.encode() + b"\x1a", "line 4 holds U+001A (Ctrl-Z); delete it"),
        (b"[server]\n\0", "line 2 holds U+0000 (NUL); delete it"),
        (b"[server]\n# \x1b[0m", "line 2 holds U+001B; delete it"),
        (b"[server]\r\n\x7f", "line 2 holds U+007F; delete it"),
        (
            KIT.replace("\n", "\r").encode(),
            "line 1 ends with CR alone; save it with the line ends of Unix (LF)",
        ),
        (b"[server]\n[log]\r[store]\n", "line 2 ends with CR alone; save it with the line ends of Unix (LF)"),
    ],
)
def test_what_editors_put_in_place_of_quotes_and_blanks_is_named(
    tmp_path: Path, raw: bytes, told: str
) -> None:
    """It looks right on the screen."""
    (tmp_path / "config.toml").write_bytes(raw)

    with pytest.raises(ConfigError, match=re.escape(told)):
        load(tmp_path / "config.toml", environ={})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[store]\nurl = 'sqlite:~/x.db'", "store.url"),
        ("[store]\nurl = 'sqlite:~broker/x.db'", "store.url"),
        ("[keys]\nmaster = { file = '~/k' }", "keys.master.file"),
        ("[server]\nadmin_socket = '~/s'", "server.admin_socket"),
        ("[server]\ninternal = [{ path = '~/s' }]", "server.internal.path"),
        ("[alerts]\ncommand = ['~/page']", "alerts.command"),
        ("[audit]\nto = { path = '~' }", "audit.to.path"),
    ],
)
def test_nobody_expands_the_home_folder(tmp_path: Path, text: str, key: str) -> None:
    """A service has none, and a folder of that name would be made."""
    assert f"{key}: found a path that begins with ~" in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[network]\nproxy = 'socks5://p:1080'", "network.proxy", "http://host:port"),
        ("[network]\nproxy = 'https://p:3128'", "network.proxy", "http://host:port"),
        ("[network]\nproxy = 'http://p'", "network.proxy", "http://host:port"),
        ("[network]\nproxy = 'p:3128'", "network.proxy", "http://host:port"),
        (f"[network]\nproxy = 'http://u:{CANARY}@p:x'", "network.proxy", "http://host:port"),
        ("[network]\nproxy = true", "network.proxy", "not a secret"),
        ("[network]\nno_proxy = 'x'", "network.no_proxy", "a list"),
        ("[network]\nno_proxy = ['a b']", "network.no_proxy", "names"),
        ("[network]\nca_file = 'none.pem'", "network.ca_file", "cannot be read"),
        ("[network]\nca_file = 'config.toml'", "network.ca_file", "holds no certificate"),
        ("[network]\nproxi = 'none'", "network.proxi", "did you mean network.proxy"),
        (KIT + "proxy = 'ftp://x'", "providers.kit.proxy", "http://host:port"),
        (KIT + "ca_file = 'none.pem'", "providers.kit.ca_file", "cannot be read"),
    ],
)
def test_mistake_about_the_network(tmp_path: Path, text: str, key: str, hint: str) -> None:
    """Named by its key; no password is shown."""
    [found] = problems(tmp_path, text)

    assert found.startswith(f"{key}: ")
    assert hint in found
    assert CANARY not in found


OTHER = '[providers.kustomer]\nclient_id = "c"\nclient_secret = "s"\n'


def test_providers_network_is_the_common_one_or_its_own(tmp_path: Path) -> None:
    """Each key by itself; a proxy of its own has exemptions of its own."""
    found = settings(
        tmp_path,
        "[network]\nproxy = 'http://p:1'\nno_proxy = ['a']\n" + KIT + OTHER + "proxy = { env = 'P' }",
        {"P": "http://u:p@q:2\n"},
    )

    assert NetworkSettings(Secret("http://p:1"), ("a",)) == found.network
    assert found.network == found.providers["kit"].network
    assert NetworkSettings(Secret("http://u:p@q:2")) == found.providers["kustomer"].network
    assert "http://q:2" == found.providers["kustomer"].network.route


@pytest.mark.parametrize(
    ("environ", "proxy", "no_proxy"),
    [
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}, "http://b:2", ()),
        ({"ALL_PROXY": "c:3", "NO_PROXY": "x, .y z"}, "http://c:3", ("x", ".y", "z")),
        ({"HTTP_PROXY": "http://d:4", "no_proxy": "*"}, None, ("*",)),
        ({"HTTPS_PROXY": "HTTP://u:p@E:5/"}, "http://u:p@E:5", ()),
        ({"https_proxy": "", "HTTPS_PROXY": " http://f_g:6\n"}, "http://f_g:6", ()),
        (
            {"https_proxy": " ", "all_proxy": "[fd00::1]:7", "no_proxy": " , ", "NO_PROXY": "z"},
            "http://[fd00::1]:7",
            ("z",),
        ),
        ({"ALL_PROXY": "u:p@h:8", "NO_PROXY": "a,,b\t[::1]:9,"}, "http://u:p@h:8", ("a", "b", "[::1]:9")),
        ({}, None, ()),
    ],
)
def test_environment_counts_only_where_it_is_named(
    tmp_path: Path, environ: dict[str, str], proxy: str | None, no_proxy: tuple[str, ...]
) -> None:
    """As curl reads it: lower case first."""
    named = settings(tmp_path, '[network]\nproxy = "environment"', environ).network

    assert NetworkSettings(None if proxy is None else Secret(proxy), no_proxy) == named
    assert NetworkSettings() == settings(tmp_path, "", environ).network


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (f"socks5://u:{CANARY}@p:1080", "a socks5 proxy"),
        ("SOCKS5H://p:1080", "a socks5h proxy"),
        ("https://p:3128", "an https proxy"),
        ("http://p", "a proxy without a port"),
        ("p", "a proxy without a port"),
        (f"http://u:{CANARY}@p", "a proxy without a port"),
        (f"{CANARY}://p:1", "something else"),
        (f"u:{CANARY}/@p:1", "something else"),
        (f"http://p:1/{CANARY}", "something else"),
        ("http://p:0", "something else"),
        (f"http://u:{CANARY}[@p:1", "something else"),
        (f"http://u:{CANARY}#@p:1", "something else"),
        ("http://[::g]:1", "something else"),
        ("http://[:::]:1", "something else"),
        ("http://p q:1", "something else"),
        ("//p:1", "something else"),
    ],
)
@pytest.mark.parametrize("name", ["https_proxy", "ALL_PROXY"])
def test_bad_variable_is_named(tmp_path: Path, name: str, value: str, told: str) -> None:
    """Beside the key, and as what it is where that can be told without its password."""
    [common] = problems(tmp_path, '[network]\nproxy = "environment"', {name: value})
    [own] = problems(tmp_path, KIT + 'proxy = "environment"', {name: value})
    if "://" in value:
        [written] = problems(tmp_path, f'[network]\nproxy = "{value}"')
        assert written.startswith(f"network.proxy: found {told}; expected ")

    assert common.startswith(f"network.proxy: found ${name}, {told}; expected ")
    assert f"providers.kit.{common.removeprefix('network.')}" == own
    assert CANARY not in common


def test_empty_file_has_every_default(tmp_path: Path) -> None:
    """As `interface.md` gives them."""
    found = settings(tmp_path, "")

    assert (TcpListen("127.0.0.1", 8080),) == found.server.internal
    assert (TcpListen("127.0.0.1", 8081),) == found.server.public
    assert tmp_path / "var/admin.sock" == found.server.admin_socket
    assert tmp_path / "var/broker.db" == found.store.path
    assert FileKey(tmp_path / "var/master.key") == found.master
    assert (900, 75, 10, True, 432000) == (
        found.refresh.ahead,
        found.refresh.timeout,
        found.refresh.patience,
        found.refresh.background,
        found.refresh.idle_renewal,
    )
    assert {} == found.providers
    assert (None, tmp_path / "var/audit.jsonl", False) == (
        found.login,
        found.audit.path,
        found.sandbox.enabled,
    )


def test_providers_have_their_own_defaults(tmp_path: Path) -> None:
    """Kit, Kustomer and any other."""
    text = KIT + '[providers.kustomer]\nclient_id = "c"\n' + ANY + 'token_url = "https://x.example/t"\n'

    found = settings(tmp_path, text).providers

    assert (Rotation.STRICT, Rotation.STRICT, Rotation.FAMILY) == tuple(
        one.rotation for one in found.values()
    )
    assert (172800, 86400, 3600) == tuple(one.default_expires_in for one in found.values())
    assert ("app", "global", None) == tuple(one.endpoints for one in found.values())
    assert ("post", "none", "none") == tuple(one.client_auth for one in found.values())
    assert "offline_access" in found["kustomer"].scopes


def test_other_forms(tmp_path: Path) -> None:
    """Unix listeners, lists, a command for the master key, journald under systemd."""
    text = """[server]
internal = ["127.0.0.1:1", "[::1]:2", { path = "api.sock", mode = "0660", group = "g" }]
[keys]
master = { command = ["unwrap", "key"] }
"""
    found = settings(tmp_path, text, {"INVOCATION_ID": "x"})

    expected = (TcpListen("127.0.0.1", 1), TcpListen("::1", 2), UnixListen(tmp_path / "api.sock", 0o660, "g"))
    assert expected == found.server.internal
    assert CommandKey(("unwrap", "key")) == found.master
    assert found.audit.path is None


def test_sandbox_supplies_its_own(tmp_path: Path) -> None:
    """Its URLs and ids always win; other given keys do; a login of the file's own stays."""
    text = '[sandbox]\nenabled = true\nlisten = "127.0.0.1:7"\n[providers.kit]\nclient_id = "real"\nscopes = ["x"]\n'

    found = settings(tmp_path, text)

    kit = found.providers["kit"]
    assert ("sandbox-kit", "http://127.0.0.1:7/kit/oauth/token", ("x",)) == (
        kit.client.client_id,
        kit.token_url,
        kit.scopes,
    )
    assert found.login is not None
    assert {"kit", "kustomer"} == set(found.providers)


def test_port_moves_all_three(tmp_path: Path) -> None:
    """`make run PORT=9000`."""
    found = settings(tmp_path, "[sandbox]\nenabled = true", port=9000)

    assert (9000, 9001, 9002) == (
        *(one.port for one in (*found.server.internal, *found.server.public) if isinstance(one, TcpListen)),
        found.sandbox.listen.port,
    )
    assert "http://127.0.0.1:9001" == found.server.public_url


def test_file_is_found_in_order(tmp_path: Path) -> None:
    """--config, then $BROKER_CONFIG, then /etc; never the current folder."""
    assert Path("/a") == locate("/a", {"BROKER_CONFIG": "/b"})
    assert Path("/b") == locate(None, {"BROKER_CONFIG": "/b"})
    assert Path("/etc/token-broker/config.toml") == locate(None, {})


def test_command_line_needs_the_socket_alone(tmp_path: Path) -> None:
    """Everything else may be wrong, and no secret is resolved."""
    (tmp_path / "config.toml").write_text(
        '[server]\nadmin_socket = "x.sock"\n[providers.kit]\nclient_secret = 5\n'
    )

    assert tmp_path / "x.sock" == admin_socket_of(tmp_path / "config.toml", {})
    assert Path("/run/x") == admin_socket_of(tmp_path / "none", {"BROKER_ADMIN_SOCKET": "/run/x"})


def test_reload_takes_providers_and_log(tmp_path: Path) -> None:
    """Other changed keys keep their value, one line each."""
    old = settings(tmp_path, KIT)
    new = settings(
        tmp_path,
        KIT.replace('"c"', '"d"') + "[refresh]\nahead = '1m'\n[store]\nmemory = 5\n[log]\nlevel = 'debug'",
    )

    taken, kept = reloadable(old, new)

    assert ("d", "debug") == (taken.providers["kit"].client.client_id, taken.log.level)
    assert (old.refresh, old.store) == (taken.refresh, taken.store)
    assert {"refresh.ahead", "store.memory"} == set(kept)


def test_a_providers_own_words(tmp_path: Path) -> None:
    """Words for a dead grant, alone or with the description that has to stand beside them."""
    pair = '{ error = "invalid_request", description = "Gone." }'
    text = KIT + f'dead_errors = ["grant_gone", {pair}]\ntoken_pointer = "/data"\ntoken_type = "Bearer"\n'
    (tmp_path / "config.toml").write_text(text)

    found = load(tmp_path / "config.toml", environ={}).providers["kit"]

    assert (DeadError("grant_gone"), DeadError("invalid_request", "Gone.")) == found.dead_errors
    assert ("/data", "Bearer") == (found.token_pointer, found.token_type)
