"""TLS of a listener: its certificate and key, looked at before use and read again when they are renewed."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never

from cryptography import x509

from broker.config.secrets import mode_problem
from broker.config.settings import Tls
from broker.errors import StartRefused
from broker.files import read_regular

BEGIN = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A listener's TLS 1.2 or newer; `reload` serves a renewed certificate to whoever connects from then on."""

    files: Tls
    key: str
    """The configuration's, for messages."""
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        """Raises StartRefused."""
        object.__setattr__(self, "context", usable(self.files, key=self.key))

    def reload(self) -> None:
        """Read both files again. Only for files that `usable` has just taken: half of a pair would stay."""
        self.context.load_cert_chain(self.files.cert, self.files.key, password=_no_passphrase)


def usable(files: Tls, *, key: str) -> ssl.SSLContext:
    """A context of these files; raises StartRefused with what is wrong with which of them, and the next step."""
    _look_at(files.cert, f"{key}.cert", b"CERTIFICATE-----")
    _look_at(files.key, f"{key}.key", b"PRIVATE KEY-----")
    # A group may read it: so do systemd's credentials and Debian's group ssl-cert.
    problem = mode_problem(files.key)
    if problem is not None and problem[1]:
        raise StartRefused(f"{key}.key: {files.key} is {problem[0]}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_passphrase)
    except _Encrypted:
        raise StartRefused(
            f"{key}.key: {files.key} needs a passphrase, and nobody is there to type it; type:"
            f" openssl pkey -in {files.key} -out FILE"
        ) from None
    except ssl.SSLError as exc:
        raise StartRefused(_why(exc, files, key)) from None
    return context


def expires_at(cert: Path) -> float:
    """When the certificate that is served ends, in epoch seconds; only for one that `usable` has taken."""
    return x509.load_pem_x509_certificates(cert.read_bytes())[0].not_valid_after_utc.timestamp()


def _look_at(path: Path, key: str, holds: bytes) -> None:
    try:
        content = read_regular(path)
    except OSError as exc:
        raise StartRefused(f"{key}: {path} cannot be read: {exc.strerror}") from None
    if BEGIN not in content or holds not in content:
        kind = "private key" if b"PRIVATE" in holds else "certificate"
        raise StartRefused(f"{key}: {path} holds no {kind}; put a PEM file there")


def _why(exc: ssl.SSLError, files: Tls, key: str) -> str:
    if exc.reason == "KEY_VALUES_MISMATCH":
        return (
            f"{key}: {files.key} is not the key of the first certificate in {files.cert}; put the pair there"
        )
    return f"{key}: {files.cert} and {files.key} cannot be used: {exc.reason or 'not understood'}"


class _Encrypted(Exception):
    """The key is sealed with a passphrase; without this OpenSSL would ask the terminal for it."""


def _no_passphrase() -> Never:
    raise _Encrypted
