"""`[alerts]`: what is taken, what is refused and under which name, and that a reload takes it over."""

import base64
from pathlib import Path

import pytest

from broker.config import ConfigError, Settings, load, reloadable
from broker.config.settings import AlertSettings, WebhookSettings
from broker.model import Secret

URL = "https://ops.example.com/hook"
KEY = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


def settings(folder: Path, text: str) -> Settings:
    (folder / "config.toml").write_text(f"[alerts]\n{text}\n")
    return load(folder / "config.toml", environ={"HOOK": "from the environment"})


@pytest.mark.parametrize(
    ("secret", "keys"),
    [
        ('"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"', (KEY,)),
        ('"plain text"', (b"plain text",)),
        ('{ env = "HOOK" }', (b"from the environment",)),
        ('["new", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]', (b"new", KEY)),
    ],
)
def test_secret_is_base64_or_plain(tmp_path: Path, secret: str, keys: tuple[bytes, ...]) -> None:
    """From wherever a secret may come, and two while one is being replaced."""
    found = settings(tmp_path, f'webhook_url = "{URL}"\nwebhook_secret = {secret}').alerts

    assert AlertSettings(WebhookSettings(Secret(URL), keys), ()) == found


def test_nothing_is_told_by_default(tmp_path: Path) -> None:
    """An empty table is as good as none."""
    assert AlertSettings(None, ()) == settings(tmp_path, "").alerts


def test_command_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    """Where it names a path; a bare name and a full path stay as they are."""
    commands = ['["./page", "-x"]', '["page"]', '["/bin/page"]']

    found = [settings(tmp_path, f"command = {one}").alerts.command for one in commands]

    assert [(str(tmp_path / "page"), "-x"), ("page",), ("/bin/page",)] == found


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        (f'webhook_url = "{URL}"', "alerts.webhook_secret", "signs"),
        ('webhook_secret = "s"', "alerts.webhook_url", "address"),
        ('webhook_url = "http://ops.example.com"\nwebhook_secret = "s"', "alerts.webhook_url", "loopback"),
        ('webhook_url = "https://u:p@x.example"\nwebhook_secret = "s"', "alerts.webhook_url", "without user"),
        ('webhook_url = 5\nwebhook_secret = "s"', "alerts.webhook_url", "a string"),
        (f'webhook_url = "{URL}"\nwebhook_secret = "whsec_?"', "alerts.webhook_secret", "base64"),
        (f'webhook_url = "{URL}"\nwebhook_secret = "whsec_"', "alerts.webhook_secret", "base64"),
        (f'webhook_url = "{URL}"\nwebhook_secret = {{ env = "NO" }}', "alerts.webhook_secret", "not set"),
        (f'webhook_url = "{URL}"\nwebhook_secret = ["a", "b", "c"]', "alerts.webhook_secret", "at most 2"),
        ("command = []", "alerts.command", "no shell"),
        ('command = [""]', "alerts.command", "no shell"),
        ('command = "page me"', "alerts.command", "a list of strings"),
        ('command = ["page", 5]', "alerts.command", "a list of strings"),
        ('webhook = "x"', "alerts.webhook", "did you mean alerts.webhook_"),
    ],
)
def test_mistake_is_told_with_the_key_s_name(tmp_path: Path, text: str, key: str, hint: str) -> None:
    """And with what is allowed; never with the secret."""
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)

    assert any(line.startswith(f"{key}:") and hint in line for line in caught.value.problems), (
        caught.value.problems
    )
    assert "whsec_?" not in str(caught.value)
    assert "u:p" not in str(caught.value)


def test_reload_takes_alerts(tmp_path: Path) -> None:
    """At once, and no other key is said to need a restart."""
    old, new = settings(tmp_path, ""), settings(tmp_path, 'command = ["page"]')

    taken, kept = reloadable(old, new)

    assert (("page",), ()) == (taken.alerts.command, kept)
