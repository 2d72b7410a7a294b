"""Encrypts secrets into records, each with the id of its key and bound to its place in the store.

The format is frozen (test vectors in `tests/test_keyring.py`); a record is URL-safe base64 without padding of

    "TB1" | kid, 8 bytes | nonce, 12 random bytes | AES-256-GCM(key, nonce, plaintext, associated data)

with the associated data `"tb1\\0"`, then table, name and field, each behind its length (4 bytes, big-endian),
then epoch and generation (8 bytes each). Data keys are random and stored wrapped:
AES-256-GCM under HKDF-SHA256(master, info "tb/kek/1"), associated data `"tb1-dek\\0" | kid | purpose`.
Random 96-bit nonces allow 2**32 records a key (NIST SP 800-38D, 8.3).
"""

import base64
import binascii
import codecs
import hashlib
import hmac
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker.errors import Conflict
from broker.model import Labelled, Secret

MAGIC = b"TB1"
KID_BYTES = 8
NONCE_BYTES = 12
HEADER_BYTES = len(MAGIC) + KID_BYTES
KEY_BYTES = 32
MAGIC_TEXT = "VEIx"
"""The first characters of every record."""
FRONT = 15
"""The number of first characters of a record that tell its key."""


class DecryptionFailed(Conflict):
    """A record cannot be decrypted: it is from another place, the key is wrong, or it is damaged."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"a stored secret cannot be decrypted ({detail}); `broker check` says what to do")


class UnknownKey(DecryptionFailed):
    """A record was encrypted with a key that the keyring does not have."""


class KeyNotActive(Exception):
    """A record was to be stored, but its key is not active any more. Encrypt it again, then store it."""


class WrongMaster(Exception):
    """The master key does not unwrap a key; the message says which one wrapped it."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a record in the store; it can be decrypted for no other."""

    table: str
    name: str
    epoch: int
    generation: int
    field: str

    def associated_data(self) -> bytes:
        """Return the associated data of AES-GCM for this place."""
        texts = self.table.encode(), self.name.encode(), self.field.encode()
        prefixed = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
        return b"tb1\0" + prefixed + self.epoch.to_bytes(8, "big") + self.generation.to_bytes(8, "big")


class Purpose(Labelled):
    """The purpose of a stored key."""

    DATA = "data", "seals tokens"
    INDEX = "index", "makes keyed hashes"
    """Keyed hashes that must survive a change of data keys: fingerprints, removed names, the audit chain."""


class KeyState(Labelled):
    """The state of a stored key."""

    ACTIVE = "active", "active", "good"
    OLD = "old", "older", "wait"
    RETIRED = "retired", "dropped"
    FORGOTTEN = "forgotten", "forgotten"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key as it is stored."""

    kid: str
    purpose: Purpose
    wrapped: str
    master_id: str
    active: bool
    """True if new records are encrypted with it; one of the data keys is active."""
    created_at: float
    retired_at: float | None = None
    """The time since which it takes no new records; it still decrypts old ones."""

    @property
    def state(self) -> KeyState:
        """The state that the stored fields amount to."""
        if not self.wrapped:
            return KeyState.FORGOTTEN
        if self.retired_at is not None:
            return KeyState.RETIRED
        return KeyState.ACTIVE if self.active else KeyState.OLD


class Master:
    """The key that wraps the others; it never encrypts data itself."""

    def __init__(self, material: bytes) -> None:
        self._kek = AESGCM(_derive(material, b"tb/kek/1"))
        self.id = _derive(material, b"tb/master-id/1")[:4].hex()
        """Identifies the master key without revealing it."""

    def wrap(self, key: bytes, *, kid: str, purpose: Purpose, created_at: float) -> WrappedKey:
        """Encrypt a key with the master key, and return it as an active wrapped key."""
        nonce = os.urandom(NONCE_BYTES)
        wrapped = _encode(nonce + self._kek.encrypt(nonce, key, _wrap_data(kid, purpose)))
        return WrappedKey(kid, purpose, wrapped, self.id, active=True, created_at=created_at)

    def wrap_again(self, key: WrappedKey, raw: bytes) -> WrappedKey:
        """Wrap the key again with this master; `raw` is the unwrapped key."""
        anew = self.wrap(raw, kid=key.kid, purpose=key.purpose, created_at=key.created_at)
        return replace(key, wrapped=anew.wrapped, master_id=self.id)

    def unwrap(self, key: WrappedKey) -> bytes:
        """Return the unwrapped key; raises WrongMaster."""
        try:
            raw = _decode(key.wrapped)
            return self._kek.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _wrap_data(key.kid, key.purpose))
        except (InvalidTag, DecryptionFailed, ValueError):
            if key.master_id == self.id:
                raise WrongMaster(
                    f"key {key.kid} was wrapped by the given master key ({self.id}), but cannot be unwrapped:"
                    " the store is damaged; restore it from a backup"
                ) from None
            raise WrongMaster(
                f"the master key does not open this store: key {key.kid} was wrapped by master {key.master_id},"
                f" the one given is {self.id}"
            ) from None


def parse_master(raw: bytes) -> Master:
    """Parse the content of a master key file: 32 bytes, raw or as base64 or hex text; raises ValueError."""
    text = raw.removeprefix(codecs.BOM_UTF8).strip()
    if len(raw) == KEY_BYTES:
        return Master(raw)
    if re.fullmatch(rb"[0-9a-fA-F]{64}", text):
        return Master(bytes.fromhex(text.decode()))
    try:
        material = base64.b64decode(text.replace(b"-", b"+").replace(b"_", b"/") + b"=="[: -len(text) % 4])
    except (ValueError, binascii.Error):
        material = b""
    if len(material) != KEY_BYTES:
        raise ValueError("a master key is 32 random bytes, written as 44 characters of base64 or 64 of hex")
    return Master(material)


def new_master_text() -> str:
    """Return a new master key as the content of its file."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode() + "\n"


def new_kid() -> str:
    """Return a random key id, 16 hex characters."""
    return os.urandom(KID_BYTES).hex()


def new_key() -> bytes:
    """Return a random key."""
    return os.urandom(KEY_BYTES)


class Keyring:
    """The data keys, one of which is active and encrypts new records, and the index key for keyed hashes."""

    def __init__(self, *, active: str, keys: Mapping[str, bytes], index_key: bytes) -> None:
        self._ciphers: dict[str, AESGCM] = {}
        self._apart: dict[str, bytes] = {}
        """The secrets from which the keys of `encrypt_apart` are derived, by data key id."""
        self._hold(keys)
        self._active = active
        self._index_key = index_key
        self._keyed: dict[str, hmac.HMAC] = {}
        """Prepared HMACs by purpose, of which there are few."""

    @property
    def active(self) -> str:
        """The id of the active data key."""
        return self._active

    @property
    def kids(self) -> Sequence[str]:
        """The ids of all data keys."""
        return tuple(self._ciphers)

    def holds(self, kid: str) -> bool:
        """Return whether records of that key can be decrypted."""
        return kid in self._ciphers

    def take(self, keys: Mapping[str, bytes], *, active: str) -> None:
        """Add these keys, and encrypt with `active` from now on; raises UnknownKey."""
        self._hold(keys)
        if active not in self._ciphers:
            raise UnknownKey(f"key {active} is not in the keyring")
        self._active = active

    def encrypt(self, place: Place, secret: Secret) -> str:
        """Encrypt a secret with the active key; return a record that can be decrypted only for `place`."""
        nonce = os.urandom(NONCE_BYTES)
        header = MAGIC + bytes.fromhex(self._active)
        plaintext = secret.reveal().encode()
        return _encode(
            header + nonce + self._ciphers[self._active].encrypt(nonce, plaintext, place.associated_data())
        )

    def decrypt(self, place: Place, record: str) -> Secret:
        """Decrypt a record of `place`; raises DecryptionFailed, UnknownKey."""
        raw = _decode(record)
        kid = _kid_of(raw)
        cipher = self._ciphers.get(kid)
        if cipher is None:
            raise UnknownKey(f"encrypted with key {kid}, which is not in the keyring")
        nonce, sealed = raw[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES], raw[HEADER_BYTES + NONCE_BYTES :]
        try:
            return Secret(cipher.decrypt(nonce, sealed, place.associated_data()).decode())
        except (InvalidTag, ValueError):
            raise DecryptionFailed(
                f"a record of {place.table}.{place.field} cannot be decrypted for its place"
            ) from None

    def encrypt_apart(self, name: str, plaintext: bytes) -> bytes:
        """Encrypt data that is kept outside the store, with a key derived for `name`.

        Anonymous requests can cause this any number of times, so it must not use up the nonces of the data key.
        """
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(self._key_apart(self._active, name)).encrypt(nonce, plaintext, None)
        return bytes.fromhex(self._active) + nonce + sealed

    def decrypt_apart(self, name: str, sealed: bytes) -> bytes:
        """Decrypt what `encrypt_apart` made for `name`; raises DecryptionFailed, UnknownKey."""
        kid, nonce = sealed[:KID_BYTES].hex(), sealed[KID_BYTES : KID_BYTES + NONCE_BYTES]
        if kid not in self._apart:
            raise UnknownKey(f"encrypted with key {kid}, which is not in the keyring")
        try:
            return AESGCM(self._key_apart(kid, name)).decrypt(nonce, sealed[KID_BYTES + NONCE_BYTES :], None)
        except (InvalidTag, ValueError):
            raise DecryptionFailed("this was encrypted for another name, or is damaged") from None

    def reencrypt(self, place: Place, record: str) -> str:
        """Encrypt the secret of a record again, with the active key; raises DecryptionFailed, UnknownKey."""
        return self.encrypt(place, self.decrypt(place, record))

    def _hold(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers.update({kid: AESGCM(key) for kid, key in keys.items()})
        self._apart.update(
            {kid: hmac.digest(key, b"tb/apart/1", hashlib.sha256) for kid, key in keys.items()}
        )

    def _key_apart(self, kid: str, name: str) -> bytes:
        return hmac.digest(self._apart[kid], name.encode(), hashlib.sha256)

    def fingerprint(self, purpose: str, text: str) -> str:
        """Return a keyed hash of 16 hex characters, which reveals only whether two texts are equal."""
        return self.derive(purpose, text.encode())[:8].hex()

    def derive(self, purpose: str, data: bytes) -> bytes:
        """Return the HMAC-SHA256 of `data` with a key derived for `purpose`."""
        keyed = self._keyed.get(purpose)
        if keyed is None:
            # Prepared once and copied for each use, because preparing it takes as long as using it.
            key = hmac.digest(self._index_key, purpose.encode(), hashlib.sha256)
            keyed = self._keyed[purpose] = hmac.new(key, digestmod=hashlib.sha256)
        mac = keyed.copy()
        mac.update(data)
        return mac.digest()


def kid_of(record: str) -> str:
    """Return the id of the key of a record; raises DecryptionFailed if it is not a record."""
    return _kid_of(_decode(record))


def _kid_of(raw: bytes) -> str:
    if raw[: len(MAGIC)] != MAGIC or len(raw) < HEADER_BYTES + NONCE_BYTES + 16:
        raise DecryptionFailed("not an encrypted record of this format")
    return raw[len(MAGIC) : HEADER_BYTES].hex()


def kid_at_front(text: str) -> str | None:
    """Return the key id of the record that starts with `text`, or None if it is no record; needs FRONT characters."""
    return _kid_at_front(text[:FRONT]) if text.startswith(MAGIC_TEXT) and len(text) >= FRONT else None


@lru_cache(maxsize=1024)
def _kid_at_front(front: str) -> str | None:
    # Cached, because every value read or written is examined; there are only four fronts for each key.
    try:
        # 15 characters are 11 bytes and two bits of the nonce; a 16th makes them whole.
        return _decode(front + "A")[len(MAGIC) : HEADER_BYTES].hex()
    except DecryptionFailed:
        return None


def _derive(material: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(material)


def _wrap_data(kid: str, purpose: Purpose) -> bytes:
    return b"tb1-dek\0" + bytes.fromhex(kid) + purpose.encode()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "==="[: -len(text) % 4])
    except (ValueError, binascii.Error):
        raise DecryptionFailed("not an encrypted record of this format") from None
