"""What a PEM public key is good for."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from broker.config.settings import OwnAlgorithm

EXPECTED = "a PEM public key, Ed25519 or EC P-256 (never the private one)"


def algorithm_of(pem: str) -> OwnAlgorithm | None:
    """The one algorithm (RFC 7518, RFC 8037) that a public key verifies; None for any other key, and a private one."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ES256"
    return None
