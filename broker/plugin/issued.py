"""Makes tokens, and seals a pair so that only the refresh token it replaced opens it."""

import base64
import json
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker import oauth
from broker.model import PluginPair, Secret

PREFIX = "tbp_"
"""Lets secret scanners know our tokens."""
NONCE_BYTES = 12
INFO = b"tb/plugin-pair/1"


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pair in clear; it exists on the way out only."""

    access: Secret
    refresh: Secret

    def as_pair(
        self, grant_id: str, scope: str, *, now: float, access_ttl: float, refresh_ttl: float
    ) -> PluginPair:
        """How it lies in the store."""
        return PluginPair(
            refresh_hash=oauth.hashed(self.refresh),
            access_hash=oauth.hashed(self.access),
            grant_id=grant_id,
            scope=scope,
            created_at=now,
            access_expires_at=now + access_ttl,
            refresh_expires_at=now + refresh_ttl,
        )


def new_tokens() -> Tokens:
    return Tokens(_new_token(), _new_token())


def seal_for_replay(old: Secret, tokens: Tokens) -> str:
    """The pair, under a key that comes from the refresh token it replaces: the store alone opens nothing."""
    nonce = os.urandom(NONCE_BYTES)
    plain = json.dumps([tokens.access.reveal(), tokens.refresh.reveal()]).encode()
    sealed = nonce + _cipher(old).encrypt(nonce, plain, oauth.hashed(old).encode())
    return base64.urlsafe_b64encode(sealed).decode()


def open_for_replay(old: Secret, record: str) -> Tokens | None:
    """None where the record is damaged."""
    raw = base64.urlsafe_b64decode(record)
    try:
        plain = _cipher(old).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], oauth.hashed(old).encode())
    except (InvalidTag, ValueError):
        return None
    access, refresh = json.loads(plain)
    return Tokens(Secret(access), Secret(refresh))


def _new_token() -> Secret:
    return Secret(PREFIX + oauth.new_secret().reveal())


def _cipher(old: Secret) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=INFO).derive(old.reveal().encode()))
