"""`[callers.*]`: what a table leads to, and every mistake with its key."""

from pathlib import Path

import pytest

from broker.config.settings import CallerSettings, IssuedJwt, OwnJwt, PeerUid
from broker.model import Permission
from tests.callers.signing import ed25519, p256, p384, rsa
from tests.config.test_loading import problems, settings

KEY, NIST = ed25519(), p256()
OWN = f"public_key = '''{KEY.public_pem}'''\n"
ISSUED = 'issuer = "https://i.example"\njwks_url = "https://i.example/keys"\nsubject = "s"\n'
UNIX = '[server]\ninternal = [{ path = "api.sock" }, "127.0.0.1:8080"]\n'
A, B = "[callers.a]\n", "[callers.b]\n"


def test_least_that_a_caller_needs(tmp_path: Path) -> None:
    """No accounts, and permission `token`."""
    found = settings(tmp_path, A + OWN).callers["a"]

    assert ("a", (), frozenset({Permission.TOKEN})) == (found.name, found.accounts, found.permissions)
    assert isinstance(found.proof, OwnJwt)


def test_all_that_a_caller_may_say(tmp_path: Path) -> None:
    """The three ways side by side; the audience is the server's, or a caller's own."""
    (tmp_path / "a.pem").write_text(KEY.public_pem)
    text = f"""{UNIX}audience = "ours"
[callers.a]
accounts = ["kit-*", "acme"]
permissions = ["refresh", "token"]
public_key = [{{ file = "a.pem" }}, '''{NIST.public_pem}''']
[callers.b]
{ISSUED}[callers.c]
{ISSUED.replace('"s"', '"other"')}audience = "its own"
[callers.d]
permissions = []
uid = 0
"""

    found = settings(tmp_path, text)

    own = found.callers["a"].proof
    assert isinstance(own, OwnJwt)
    assert (["EdDSA", "ES256"], "ours") == ([key.algorithm for key in own.keys], found.server.audience)
    assert IssuedJwt("https://i.example", "https://i.example/keys", "s", None) == found.callers["b"].proof
    assert (
        IssuedJwt("https://i.example", "https://i.example/keys", "other", "its own")
        == found.callers["c"].proof
    )
    assert CallerSettings("d", (), frozenset(), PeerUid(0)) == found.callers["d"]


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        (A, "callers.a", "one of: public_key; issuer"),
        (A + "uid = 1\n" + OWN, "callers.a", "found public_key and uid"),
        (A + ISSUED + OWN, "callers.a", "found public_key and issuer"),
        (A + OWN + 'audience = "x"', "callers.a", "found public_key and issuer"),
        (UNIX + A + "uid = 1\n" + ISSUED, "callers.a", "found issuer and uid"),
        (A + "uid = 1", "callers.a.uid", "a Unix listener to call on"),
        (UNIX + A + "uid = -1", "callers.a.uid", "at least 0"),
        (UNIX + A + "uid = true", "callers.a.uid", "whole number"),
        (UNIX + A + 'uid = "root"', "callers.a.uid", "whole number"),
        (UNIX + A + "uid = 65534", "callers.a.uid", "one user of this machine"),
        (UNIX + A + "uid = 4294967295", "callers.a.uid", "one user of this machine"),
        (UNIX + A + f"uid = 1{'0' * 5000}", "config.toml", "is not TOML"),
        (UNIX + A + "uid = 1\n" + B + "uid = 1", "callers.b.uid", "callers.a has this one"),
        (A + OWN + "nonsense = 1", "callers.a.nonsense", "unknown key"),
        (A + OWN + 'acounts = ["x"]', "callers.a.acounts", "did you mean callers.a.accounts"),
        (A + OWN + 'accounts = "x"', "callers.a.accounts", "list of strings"),
        (A + OWN + 'accounts = ["a b"]', "callers.a.accounts", "globs"),
        (A + OWN + 'accounts = ["KIT-*"]', "callers.a.accounts", "globs"),
        (A + OWN + 'permissions = ["root"]', "callers.a.permissions", "some of: token, refresh, install"),
        (A + OWN + "permissions = [1]", "callers.a.permissions", "list of strings"),
        (A + 'public_key = "x"', "callers.a.public_key", "Ed25519 or EC P-256"),
        (A + "public_key = []", "callers.a.public_key", "two while one is being replaced"),
        (A + 'public_key = ["a", "b", "c"]', "callers.a.public_key", "found a list of 3"),
        (A + 'public_key = { file = "none.pem" }', "callers.a.public_key", "cannot be read"),
        (A + f"public_key = '''{KEY.private_pem}'''", "callers.a.public_key", "never the private one"),
        (A + f"public_key = '''{rsa().public_pem}'''", "callers.a.public_key", "Ed25519 or EC P-256"),
        (A + f"public_key = '''{p384().public_pem}'''", "callers.a.public_key", "Ed25519 or EC P-256"),
        (A + 'issuer = "x"', "callers.a.jwks_url", "together"),
        (A + 'issuer = "x"', "callers.a.subject", "together"),
        (A + 'subject = "x"', "callers.a.issuer", "together"),
        (A + ISSUED.replace('"s"', '""'), "callers.a.subject", "printable"),
        (A + ISSUED.replace('"s"', '"a\\nb"'), "callers.a.subject", "printable"),
        (A + ISSUED.replace("https://i.example/k", "http://i.example/k"), "callers.a.jwks_url", "loopback"),
        (
            A + ISSUED.replace("https://i.example/k", "https://u:p@i.example/k"),
            "callers.a.jwks_url",
            "without user",
        ),
        (A + ISSUED.replace("https://i.example/keys", "file:///etc/passwd"), "callers.a.jwks_url", "https"),
        (A + ISSUED + B + ISSUED, "callers.b.subject", "another than that of callers.a"),
        (
            A + ISSUED + B + ISSUED.replace('"s"', '"t"').replace("/keys", "/other"),
            "callers.b.jwks_url",
            "the same issuer",
        ),
        (A + OWN + B + ISSUED.replace('"https://i.example"', '"a"'), "callers.b.issuer", "name of callers.a"),
        (B + ISSUED.replace('"https://i.example"', '"a"') + A + OWN, "callers.a", "issuer of callers.b"),
        ("[callers.BAD]\n" + OWN, "callers.BAD", "lower-case"),
        (f"[callers.{'x' * 65}]\n" + OWN, f"callers.{'x' * 65}", "at most 64"),
        ("callers = 7", "callers", "a table"),
        ("[callers]\na = 7", "callers.a", "a table"),
        ('[server]\naudience = ""', "server.audience", "printable"),
        ("[server]\naudience = 7", "server.audience", "a string"),
    ],
)
def test_mistake_is_named(tmp_path: Path, text: str, key: str, hint: str) -> None:
    """The key's full name, and what would be right; nothing of a private key."""
    found = problems(tmp_path, text)

    assert any(key in line.partition(": ")[0] and hint in line for line in found), found
    assert not any(KEY.private_pem.splitlines()[1] in line for line in found)


def test_secrets_may_stand_elsewhere(tmp_path: Path) -> None:
    """A public key too; its file may be open to all."""
    (tmp_path / "a.pem").write_text(KEY.public_pem)
    (tmp_path / "a.pem").chmod(0o644)

    by_env = (
        settings(tmp_path, A + "public_key = { env = 'PEM' }", {"PEM": KEY.public_pem}).callers["a"].proof
    )
    by_file = settings(tmp_path, A + "public_key = { file = 'a.pem' }").callers["a"].proof

    assert isinstance(by_env, OwnJwt)
    assert isinstance(by_file, OwnJwt)
    assert [key.pem.strip() for key in by_env.keys] == [key.pem.strip() for key in by_file.keys]
