"""What a problem says, to the letter: key, what was found, what is allowed, on one line, and no secret."""

from pathlib import Path

import pytest

from broker.config import ConfigError, load

CANARY = "canary-77c0"
KIT = '[providers.kit]\nclient_id = "c"\nclient_secret = "s"\n'
ANY = (
    '[providers.x]\ntype = "oauth2"\nclient_id = "c"\n'
    'authorize_url = "https://x.example/a"\ntoken_url = "https://x.example/t"\n'
)
DURATION = 'a duration as in "90s", "15m", "48h" or "30d"'
ENDPOINT = "an https address without user and fragment; {org} may stand in it"


def problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "config.toml", environ={})
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '[server]\npublic_url = "ftp://x"',
            'server.public_url: found "ftp://x"; expected scheme and host only, as in https://broker.example.com',
        ),
        (
            '[server]\npublic_url = "http://x"',
            'server.public_url: found "http://x"; expected https://… (http only on loopback)',
        ),
        (
            '[server]\npublic_url = ""',
            'server.public_url: found ""; expected scheme and host only, as in https://broker.example.com',
        ),
        (
            '[server]\npublic_url = "https://x?"',
            'server.public_url: found "https://x?…"; expected scheme and host only, as in https://broker.example.com',
        ),
        (
            '[server]\npublic_url = "https://x\\ny"',
            'server.public_url: found "https://x\\ny"; expected scheme and host only, as in https://broker.example.com',
        ),
        ("[refresh]\nahead = 900", f"refresh.ahead: found 900 (write it with its unit); expected {DURATION}"),
        ("[refresh]\nahead = true", f"refresh.ahead: found true or false; expected {DURATION}"),
        ("[refresh]\nahead = '-5m'", f'refresh.ahead: found "-5m"; expected {DURATION}'),
        ("[refresh]\nahed = '5m'", "refresh.ahed: unknown key; did you mean refresh.ahead?"),
        ("[log]\nx = 1", "log.x: unknown key; one of: format, level"),
        (
            "qqq = 1",
            "qqq: unknown key; one of: alerts, audit, callers, keys, log, login, network, plugin, providers, refresh,"
            " sandbox, server, store",
        ),
        ('[log]\n"a\\nb" = 1', 'log."a\\nb": unknown key; one of: format, level'),
        ("[log]\nlevel = 3", 'log.level: found a number; expected "debug" or "info" or "warning" or "error"'),
        ("[log]\nformat = 'xml'", 'log.format: found "xml"; expected "json" or "console" or "auto"'),
        ("providers = 3", "providers: found a number; expected a table"),
        ("[providers]\nkit = 3", "providers.kit: found a number; expected a table"),
        (
            '[providers.KIT]\ntype = "kit"\nclient_id = "c"',
            'providers.KIT: found "KIT"; expected a provider\'s name of lower-case letters, digits and hyphens, '
            "at most 32",
        ),
        (
            '[providers.kit]\nclient_id = ""',
            'providers.kit.client_id: found ""; expected the id that the provider gave the app',
        ),
        ("[providers.kit]\nclient_id = 5", "providers.kit.client_id: found a number; expected a string"),
        (
            '[providers.kit]\nclient_id = "c"\nclient_secret = []',
            "providers.kit.client_secret: found a list of 0; expected "
            'a string, { env = "NAME" }, { file = "PATH" } or { credential = "NAME" }, or a list of at most 2',
        ),
        (KIT + 'token_url = ""', f'providers.kit.token_url: found ""; expected {ENDPOINT}'),
        (
            KIT + 'token_url = "https://{org}:8443/t"',
            'providers.kit.token_url: found "https://{org}:8443/t"; '
            "expected a host of which {org} is only a part, as in https://{org}.example.com",
        ),
        (
            KIT + 'token_url = "https://api.{org}/t"',
            'providers.kit.token_url: found "https://api.{org}/t"; '
            "expected a host of which {org} is only a part, as in https://{org}.example.com",
        ),
        (
            KIT + "default_expires_in = 999999999999999",
            f"providers.kit.default_expires_in: found a number; expected {DURATION}, or a number of seconds",
        ),
        (
            '[providers.kustomer]\nclient_id = "c"\nopen_install = true',
            "providers.kustomer.open_install: unknown key; one of: api_url, authorize_params, authorize_url, body, "
            "ca_file, client_auth, client_id, client_secret, dead_errors, default_expires_in, endpoints, "
            "identity_pointer, identity_url, issuer, no_proxy, pkce, previous_clients, proxy, revoke_url, rotation, "
            "scopes, token_pointer, token_type, token_url, type",
        ),
        (
            KIT + '[[providers.kit.previous_clients]]\nclient_secret = "s"',
            "providers.kit.previous_clients[0].client_id: found nothing; expected a string",
        ),
        (
            '[login]\nurl = "https://{org}.example/"\nkey = { file = "no.pem" }',
            'login.url: found "https://{org}.example/"; expected an https address without user and fragment',
        ),
    ],
)
def test_line_is_exact(tmp_path: Path, text: str, line: str) -> None:
    """Whoever reads it knows which key to mend and how."""
    found = problems(tmp_path, text)

    assert line in found
    assert 1 == sum(one.partition(":")[0] == line.partition(":")[0] for one in found)


@pytest.mark.parametrize(
    "text",
    [
        f'[store]\nurl = "mysql://broker:{CANARY}@db/broker"',
        f'[server]\npublic_url = "https://u:{CANARY}@x.example"',
        KIT + f'token_url = "https://u:{CANARY}@x.example/t"',
        KIT + f'api_url = "http://x.example/?key={CANARY}"',
        f'[store]\nurl = "broker:{CANARY}@db/broker"',
        KIT + f'token_url = "https://u:{CANARY}?x@x.example/t"',
        KIT + f'token_url = "https://u:x?{CANARY}@x.example/t"',
        KIT + f'token_url = "https://x.example/#{CANARY}"',
        f'[login]\nurl = "https://u:{CANARY}@x.example/"\nkey = "k"',
        f'[login]\nurl = "https://x.example/"\nkey = "{CANARY}"',
        f'[providers.kit]\nclient_id = "c"\nclient_secret = {{ env = "{CANARY}" }}',
        f'[providers.kit]\nclient_id = "c"\nclient_secret = {{ credential = "{CANARY}/x" }}',
        f'[providers.kit]\nclient_id = "c"\nclient_secret = {{ file = "x", value = "{CANARY}" }}',
        f'[providers.kit]\nclient_id = ["{CANARY}"]',
        f'[keys]\nmaster = "{CANARY}"',
        f'[keys]\nmaster = {{ command = "{CANARY}" }}',
        f'[refresh]\nahead = ["{CANARY}"]',
        ANY + f'default_expires_in = {{ x = "{CANARY}" }}',
        f'[plugin.clients.kit]\nclient_secret = "{CANARY}"',
        f'[alerts]\nwebhook_secret = "{CANARY}"',
        f'[store]\nurl = "{CANARY}',
    ],
)
def test_no_line_quotes_a_secret(tmp_path: Path, text: str) -> None:
    """Not from the wrong place either: an address, a name, another type, a table of a later version, bad TOML."""
    found = problems(tmp_path, text)

    assert CANARY not in "\n".join(found)


def test_long_values_are_cut(tmp_path: Path) -> None:
    """A file pasted into a value does not become the message."""
    (line,) = problems(tmp_path, f'[log]\nlevel = "{"x" * 5000}"')

    assert line.startswith('log.level: found "xxx')
    assert len(line) < 200


@pytest.mark.parametrize(
    "text", [b'x = "\xff"', b"x = " + b"9" * 5000, b'[store]\nurl = "a', b"a = 1\na = 2", b"\x00"]
)
def test_text_that_is_no_toml_is_one_problem(tmp_path: Path, text: bytes) -> None:
    """It names the file."""
    (tmp_path / "config.toml").write_bytes(text)

    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "config.toml", environ={})

    (line,) = caught.value.problems
    assert line.startswith(f"{tmp_path / 'config.toml'}: is not ")
