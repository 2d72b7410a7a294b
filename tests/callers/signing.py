"""Keys of every kind, and JWTs signed with them."""

import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

Private = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and the algorithm it signs with."""

    key: Private
    algorithm: Literal["EdDSA", "ES256", "RS256", "ES384"]
    kid: str = "k1"

    @property
    def public_pem(self) -> str:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def private_pem(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def jwk(self) -> dict[str, Any]:
        """As an issuer publishes it."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        public = algorithm.to_jwk(self.key.public_key(), as_dict=True)
        public.pop("key_ops", None)
        return {**public, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def sign(self, claims: object, header: dict[str, Any] | None = None) -> str:
        """Claims of any kind under any header, signed rightly with this key."""
        return self.sign_bytes(_json({"alg": self.algorithm, **(header or {})}), _json(claims))

    def sign_bytes(self, header: bytes, claims: bytes) -> str:
        """The very bytes, signed rightly."""
        signed = f"{b64(header)}.{b64(claims)}"
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        return f"{signed}.{b64(algorithm.sign(signed.encode(), self.key))}"


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def ed25519(kid: str = "k1") -> Signer:
    return Signer(Ed25519PrivateKey.generate(), "EdDSA", kid)


def p256(kid: str = "k1") -> Signer:
    return Signer(generate_private_key(SECP256R1()), "ES256", kid)


def p384(kid: str = "k1") -> Signer:
    return Signer(generate_private_key(SECP384R1()), "ES384", kid)


@cache
def rsa(kid: str = "k1", bits: int = 2048) -> Signer:
    """The same for the same words, because such keys take long to make."""
    return Signer(generate_rsa(65537, bits), "RS256", kid)


def own_claims(name: str, now: float, **changes: object) -> dict[str, object]:
    """What a caller claims of itself; a change to None leaves a claim out."""
    claims = {
        "iss": name,
        "sub": name,
        "aud": "token-broker",
        "iat": int(now),
        "exp": int(now) + 300,
        **changes,
    }
    return {claim: value for claim, value in claims.items() if value is not None}
