"""Certificates of an authority that lives for one test."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

DAY = timedelta(days=1)
USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


@dataclass(slots=True)
class Authority:
    """Signs certificates for 127.0.0.1."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> str:
        """What clients trust."""
        signed = (
            self._builder("authority", self.key, 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(*(use == "key_cert_sign" for use in USES)),
                critical=True,
            )
            .sign(self.key, hashes.SHA256())
        )
        return signed.public_bytes(Encoding.PEM).decode()

    def issue(
        self,
        cert: Path,
        key: Path,
        *,
        name: str = "broker",
        good_for: timedelta = 30 * DAY,
        passphrase: str = "",
    ) -> None:
        """Write a new pair, the key 0600."""
        private = ec.generate_private_key(ec.SECP256R1())
        signed = (
            self._builder(name, private, good_for)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        cert.write_bytes(signed.public_bytes(Encoding.PEM))
        sealed = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        key.touch(mode=0o600)
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed))

    def _builder(
        self, name: str, key: ec.EllipticCurvePrivateKey, good_for: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + good_for) - DAY)
            .not_valid_after(now + good_for)
            # Python 3.13 and newer ask for both (VERIFY_X509_STRICT, RFC 5280 4.2.1.1).
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
