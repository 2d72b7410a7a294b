"""Certificates and keys that are not taken: each says which file, what is wrong, and the next step."""

import os
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from broker.admin.checks import Check, Examined, certificates
from broker.clock import SystemClock
from broker.config import load
from broker.config.values import Tls
from broker.errors import StartRefused
from broker.http.sockets import usable
from tests.certificates import Authority

AUTHORITY = Authority()
PASSPHRASE = "canary-passphrase"


def checked(config: Path) -> list[Check]:
    """What `broker check` says of the certificates that this configuration names."""
    settings = load(config, environ={})
    return [*certificates(Examined(settings=settings, now=SystemClock().now(), environ=None))]


@pytest.fixture
def pair(tmp_path: Path) -> Tls:
    """A good certificate and its key."""
    files = Tls(tmp_path / "cert.pem", tmp_path / "key.pem")
    AUTHORITY.issue(files.cert, files.key)
    return files


def pipe_at(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_at(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAKAGES: dict[str, tuple[Callable[[Tls], object], str]] = {
    "no certificate": (
        lambda files: files.cert.unlink(),
        r"public_tls\.cert: .*cert\.pem cannot be read: No such",
    ),
    "no key": (lambda files: files.key.unlink(), r"public_tls\.key: .*key\.pem cannot be read: No such"),
    "a pipe": (lambda files: pipe_at(files.key), r"key\.pem cannot be read: it is a pipe, no regular file"),
    "a folder": (lambda files: folder_at(files.cert), r"cannot be read: Is a directory"),
    "not PEM": (
        lambda files: files.cert.write_text("x"),
        r"public_tls\.cert: .*cert\.pem holds no certificate",
    ),
    "empty key": (
        lambda files: files.key.write_text(""),
        r"public_tls\.key: .*key\.pem holds no private key",
    ),
    "swapped": (
        lambda files: (files.cert.rename(files.cert.with_name("x")), files.key.rename(files.cert)),
        r"holds no certificate",
    ),
    "garbled certificate": (
        lambda files: files.cert.write_text(files.cert.read_text().replace("M", "N")),
        r"cert\.pem and .*key\.pem cannot be used: ",
    ),
    "another's key": (
        lambda files: AUTHORITY.issue(files.cert.with_name("other.pem"), files.key),
        r"key\.pem is not the key of the first certificate in .*cert\.pem",
    ),
    "key with a passphrase": (
        lambda files: AUTHORITY.issue(files.cert, files.key, passphrase=PASSPHRASE),
        r"key\.pem needs a passphrase.*openssl pkey",
    ),
    "key open to others": (
        lambda files: files.key.chmod(0o644),
        r"open to others \(mode 644\); type: chmod 600",
    ),
    "key that a group may change": (lambda files: files.key.chmod(0o660), r"mode 660\); type: chmod 600"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_unusable_pair_is_refused_with_its_key_and_the_next_step(pair: Tls, name: str) -> None:
    """One sentence, and nothing of the key in it."""
    breakage, sentence = BREAKAGES[name]
    breakage(pair)

    with pytest.raises(StartRefused, match=sentence) as caught:
        usable(pair, key="server.public_tls")

    assert str(caught.value).startswith("server.public_tls")
    assert PASSPHRASE not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_key_may_be_read_by_its_group(pair: Tls, mode: int) -> None:
    """systemd's credentials and Debian's group ssl-cert are like that."""
    pair.key.chmod(mode)

    context = usable(pair, key="server.public_tls")

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("good_for", "level", "words"),
    [
        (timedelta(days=30), "ok", "valid for 30 more days"),
        (timedelta(days=3), "warning", "valid for 3 more days"),
        (timedelta(days=-2), "problem", "has expired"),
    ],
)
def test_check_tells_how_long_a_certificate_is_good(
    pair: Tls, good_for: timedelta, level: str, words: str
) -> None:
    """An expired one does not stop the start, so it has to be told somewhere."""
    AUTHORITY.issue(pair.cert, pair.key, good_for=good_for)
    config = pair.cert.with_name("config.toml")
    config.write_text('[server]\ninternal_tls = { cert = "cert.pem", key = "key.pem" }')

    [check] = checked(config)

    assert (level, "server.internal_tls") == (check.level, check.what)
    assert words in check.detail


def test_check_tells_what_is_wrong_with_the_files_and_the_address(pair: Tls) -> None:
    """A missing file, and links that begin with http although TLS is spoken there."""
    pair.cert.unlink()
    config = pair.cert.with_name("config.toml")
    config.write_text('[server]\npublic_tls = { cert = "cert.pem", key = "key.pem" }')

    checks = checked(config)

    assert [("server.public_tls", "problem"), ("server.public_url", "problem")] == [
        (check.what, check.level) for check in checks
    ]
