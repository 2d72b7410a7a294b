"""No grant crosses between the sandbox and the real providers; a reload and a moved port keep them apart too."""

from pathlib import Path

import pytest

from broker.config import ConfigError, Settings, load, reloadable
from broker.config.values import TcpListen
from broker.model import Secret

ROOT = Path(__file__).parent.parent.parent
SANDBOX = '[sandbox]\nenabled = true\nlisten = "127.0.0.1:7"\n'
REAL_KIT = """[providers.kit]
client_id = "real"
client_secret = { env = "NOT_SET" }
authorize_url = "https://kit.example/a"
token_url = "https://kit.example/t"
revoke_url = "https://kit.example/r"
api_url = "https://kit.example"
identity_url = "https://kit.example/me"
app_id = 9
previous_clients = [{ client_id = "older", client_secret = "s" }]
"""
REAL_KUSTOMER = """[providers.kustomer]
client_id = "real"
revoke_url = "https://kustomer.example/r"
identity_url = "https://kustomer.example/me"
"""
REAL = '[providers.kit]\nclient_id = "real"\nclient_secret = "s"\n'
OTHER_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEALfBBJfABWvtHzoU674dyCU/5SYwUyxueEpc8KSfaD6Y=
-----END PUBLIC KEY-----
"""
LOGIN_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""


def settings(tmp_path: Path, text: str, port: int | None = None) -> Settings:
    (tmp_path / "config.toml").write_text(text)
    return load(tmp_path / "config.toml", environ={}, port=port)


def problems(tmp_path: Path, text: str, port: int | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text, port)
    return caught.value.problems


@pytest.mark.parametrize("name", ["kit", "kustomer"])
def test_sandbox_takes_every_address_and_client(tmp_path: Path, name: str) -> None:
    """What it issued is never sent elsewhere, not even to an address that it has no use for."""
    provider = settings(tmp_path, SANDBOX + REAL_KIT + REAL_KUSTOMER).providers[name]

    urls = (provider.authorize_url, provider.token_url, provider.api_url, provider.revoke_url)
    assert {f"http://127.0.0.1:7/{name}"} == {url[: 19 + len(name)] for url in urls if url}
    assert provider.identity_url is None
    assert (f"sandbox-{name}", (Secret(f"sandbox-{name}-secret"),)) == (
        provider.client.client_id,
        provider.client.secrets,
    )
    assert () == provider.previous_clients


def test_other_given_keys_win_over_the_sandbox(tmp_path: Path) -> None:
    """And other providers stay as they are."""
    other = (
        '[providers.x]\ntype = "oauth2"\nclient_id = "c"\n'
        'authorize_url = "https://x.example/a"\ntoken_url = "https://x.example/t"\n'
    )

    found = settings(tmp_path, SANDBOX + REAL_KIT + other).providers

    assert (9, "https://x.example/t") == (found["kit"].app_id, found["x"].token_url)


def test_login_of_the_file_wins_over_the_sandbox(tmp_path: Path) -> None:
    """Only where there is none does the sandbox sign people in."""
    given = f'[login]\nurl = "https://app.example/login"\nkey = """{LOGIN_KEY}"""\n'

    found = settings(tmp_path, SANDBOX + given).login, settings(tmp_path, SANDBOX).login

    assert ["https://app.example/login", "http://127.0.0.1:7/company/login"] == [
        login.url for login in found if login is not None
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [("providers = 3\n", "providers"), ("[providers]\nkit = 3\n", "providers.kit"), ("login = 3\n", "login")],
)
def test_sandbox_hides_no_mistake(tmp_path: Path, text: str, key: str) -> None:
    """What is no table is told, also where the sandbox would fill it."""
    assert f"{key}: found a number; expected a table" in problems(tmp_path, text + SANDBOX)


@pytest.mark.parametrize("key", ["server", "sandbox"])
def test_port_hides_no_mistake(tmp_path: Path, key: str) -> None:
    """A table that is none cannot be moved, and that is said."""
    assert f"{key}: found a number; expected a table" in problems(tmp_path, f"{key} = 3", port=9000)


def test_port_without_room_behind_it_is_a_problem(tmp_path: Path) -> None:
    """The public listener and the sandbox need the next two."""
    found = problems(tmp_path, "", port=65535)

    assert {"server.public", "server.public_url", "sandbox.listen"} == {line.split(":")[0] for line in found}


def test_port_moves_only_the_addresses(tmp_path: Path) -> None:
    """Everything else in the two tables stays as it is given."""
    found = settings(tmp_path, '[server]\nadmin_socket = "a.sock"\n[sandbox]\ndemo = true', port=9000)

    assert (tmp_path / "a.sock", True, TcpListen("127.0.0.1", 9002)) == (
        found.server.admin_socket,
        found.sandbox.demo,
        found.sandbox.listen,
    )


def test_repository_configuration_loads() -> None:
    """With the sandbox's providers and its company app."""
    found = load(ROOT / "config.toml", environ={})

    assert ({"kit", "kustomer"}, True) == (set(found.providers), found.sandbox.demo)
    assert found.login is not None


def test_reload_leaves_the_providers_of_a_running_sandbox(tmp_path: Path) -> None:
    """While it runs, real providers would meet its grants; both wait for the restart."""
    old = settings(tmp_path, SANDBOX)
    new = settings(tmp_path, REAL + '[log]\nlevel = "debug"')

    taken, kept = reloadable(old, new)

    assert (old.providers, "debug") == (taken.providers, taken.log.level)
    assert {"providers", "login", "plugin", "sandbox.enabled", "sandbox.listen"} == set(kept)


def test_reload_takes_providers_beside_the_same_sandbox(tmp_path: Path) -> None:
    """Only another sandbox holds them back."""
    old = settings(tmp_path, SANDBOX)
    new = settings(tmp_path, SANDBOX + "demo = true\n[providers.kit]\napp_id = 5")

    taken, kept = reloadable(old, new)

    assert (5, ("sandbox.demo",)) == (taken.providers["kit"].app_id, kept)


def test_reload_names_keys_as_the_file_does(tmp_path: Path) -> None:
    """Whatever the settings call them inside."""
    login = f'[login]\nurl = "https://a.example/"\nkey = """{LOGIN_KEY}"""\n'
    old = settings(tmp_path, login)
    new = settings(
        tmp_path,
        login.replace(LOGIN_KEY, OTHER_KEY)
        + '[store]\nurl = "sqlite:b.db"\n[keys]\nmaster = { file = "m" }\n[audit]\nto = { path = "a" }\n',
    )

    _, kept = reloadable(old, new)

    assert {"login.key", "store.url", "keys.master", "audit.to"} == set(kept)


def test_reload_of_the_same_file_changes_nothing(tmp_path: Path) -> None:
    """No line where nothing waits."""
    old, new = settings(tmp_path, REAL), settings(tmp_path, REAL)

    assert (old, ()) == reloadable(old, new)
