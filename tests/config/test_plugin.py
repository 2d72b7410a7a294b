"""`[plugin]`: what it means, and every mistake with its key."""

from pathlib import Path

import pytest

from broker.config import ConfigError, load
from broker.config.settings import PluginSettings

CLIENT = """
[plugin.clients.kit]
client_id = "kit-plugin"
client_secret = "s3cret"
redirect_uris = ["https://app.kit.com/apps/install"]
"""


def plugin_of(folder: Path, text: str) -> PluginSettings | None:
    (folder / "config.toml").write_text(text)
    return load(folder / "config.toml", environ={}).plugin


def problems_of(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        plugin_of(folder, text)
    return caught.value.problems


def test_least_that_one_must_give(tmp_path: Path) -> None:
    """The rest is Kit's lives, no scopes, and a secret at every request."""
    found = plugin_of(tmp_path, CLIENT)

    assert found is not None
    client = found.clients["kit"]
    assert (172800.0, 365 * 86400.0) == (found.access_ttl, found.refresh_ttl)
    assert ("kit", (), False) == (client.title, client.scopes, client.refresh_without_secret)


@pytest.mark.parametrize("text", ["", "[plugin]\nenabled = false\n", f"[plugin]\nenabled = false\n{CLIENT}"])
def test_off_is_off(tmp_path: Path, text: str) -> None:
    """Absent or switched off; its tables may stay in the file."""
    assert plugin_of(tmp_path, text) is None


def test_two_secrets_while_one_replaces_the_other(tmp_path: Path) -> None:
    """And from a file, as any secret."""
    (tmp_path / "new").write_text("new\n")
    (tmp_path / "new").chmod(0o600)
    text = CLIENT.replace('"s3cret"', '["s3cret", { file = "new" }]')

    found = plugin_of(tmp_path, text)

    assert found is not None
    assert ["s3cret", "new"] == [secret.reveal() for secret in found.clients["kit"].secrets]


def test_sandbox_supplies_kit_where_the_file_has_none(tmp_path: Path) -> None:
    """And leaves a client of that name, and others, as they are."""
    sandbox = '[sandbox]\nenabled = true\nlisten = "127.0.0.1:9999"\n'
    supplied, own = plugin_of(tmp_path, sandbox), plugin_of(tmp_path, sandbox + CLIENT)
    other = plugin_of(tmp_path, sandbox + CLIENT.replace("clients.kit", "clients.other"))

    assert supplied is not None and own is not None and other is not None
    assert "http://127.0.0.1:9999/kit/apps/install" in supplied.clients["kit"].redirect_uris
    assert supplied.clients["kit"].refresh_without_secret
    assert "kit-plugin" == own.clients["kit"].client_id
    assert {"kit", "other"} == set(other.clients)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("", "[plugin]\nenabled = 1\n", "plugin.enabled: found a number"),
        ("", "[plugin]\naccess_ttl = 3\n", "plugin.access_ttl: found 3"),
        ("", '[plugin]\naccess_ttl = "10s"\n', 'plugin.access_ttl: found "10s"; expected at least 60 s'),
        (
            "",
            '[plugin]\nrefresh_ttl = "9999d"\n',
            'plugin.refresh_ttl: found "9999d"; expected at most',
        ),
        (
            "",
            '[plugin]\nrefresh_ttl = "1h"\n',
            "plugin.refresh_ttl: found 3600 s; expected at least access_ttl",
        ),
        ("", "[plugin]\nnonsense = 1\n", "plugin.nonsense: unknown key"),
        ('client_id = "kit-plugin"\n', "", "plugin.clients.kit.client_id: found nothing"),
        ('"kit-plugin"', '""', 'plugin.clients.kit.client_id: found ""'),
        ('"kit-plugin"', '"a\\nb"', "plugin.clients.kit.client_id: found"),
        ('client_secret = "s3cret"\n', "", "plugin.clients.kit.client_secret: found nothing"),
        ('"s3cret"', '""', "plugin.clients.kit.client_secret: found a value that is not a secret"),
        (
            '"s3cret"',
            '"s3cr€t"',
            "plugin.clients.kit.client_secret: found a secret whose character 5 is U+20AC",
        ),
        ('"s3cret"', '["a", "b", "c"]', "plugin.clients.kit.client_secret: found a list of 3"),
        ('"s3cret"', '{ env = "NEVER_SET" }', "plugin.clients.kit.client_secret: found"),
        ('["https://app.kit.com/apps/install"]', "[]", "plugin.clients.kit.redirect_uris: found none"),
        ("https://app.kit.com", "http://app.kit.com", "expected https://… (http only on loopback)"),
        ("/apps/install", "/apps/install#x", "plugin.clients.kit.redirect_uris: found"),
        ("https://app.kit.com/apps/install", "/apps/install", "plugin.clients.kit.redirect_uris: found"),
        ("https://app.kit.com", "https://a@app.kit.com", "plugin.clients.kit.redirect_uris: found"),
        ("\n[plugin.clients.kit]", "[plugin.clients.Kit]", 'plugin.clients.Kit: found "Kit"'),
        ("client_id =", 'name = ""\nclient_id =', 'plugin.clients.kit.name: found ""'),
        ("client_id =", 'scopes = ["a b"]\nclient_id =', 'plugin.clients.kit.scopes: found "a b"'),
        ("client_id =", 'scopes = ["a,b"]\nclient_id =', 'plugin.clients.kit.scopes: found "a,b"'),
        (
            "client_id =",
            'refresh_without_secret = "no"\nclient_id =',
            "refresh_without_secret: found a string",
        ),
        ("client_id =", "client_ids = 1\nclient_id =", "did you mean plugin.clients.kit.client_id?"),
    ],
)
def test_mistake_is_told_with_its_key(tmp_path: Path, old: str, new: str, told: str) -> None:
    """What was found and what is allowed."""
    text = CLIENT.replace(old, new, 1) if old else new + CLIENT

    found = problems_of(tmp_path, text)

    assert [True] == [told in line for line in found]
    assert "s3cret" not in "".join(found)


def test_two_clients_with_one_id(tmp_path: Path) -> None:
    """Nobody could tell them apart."""
    found = problems_of(tmp_path, CLIENT + CLIENT.replace("clients.kit", "clients.again"))

    assert (
        'plugin.clients.again.client_id: found "kit-plugin"; expected an id that no other client has',
    ) == found


def test_server_without_clients(tmp_path: Path) -> None:
    """It would let nobody in."""
    assert (
        "plugin.clients: found none; expected at least one table, as in [plugin.clients.kit]",
    ) == problems_of(tmp_path, "[plugin]\n")
