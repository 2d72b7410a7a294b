"""Encrypts and decrypts tokens for their place in the store."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, assert_never

from broker.encryption.keyring import Keyring, Place
from broker.model import Account, PendingGrant, PendingInstall, Ref, Secret, Spare, Successor

VERIFIER = "verifier"
ACCESS, REFRESH = "access_token", "refresh_token"
LATE = "late:"
"""Prefix of the id of a spare refresh token that was encrypted as a successor but arrived too late to be one."""

Encrypted = Account | Successor | Spare | PendingInstall | PendingGrant
"""The values that hold encrypted records."""
E = TypeVar("E", bound=Encrypted)


class TokenEncryption:
    """Encrypts and decrypts access and refresh tokens, each bound to its place in the store."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def encrypt(
        self, ref: Ref, access: Secret | None, refresh: Secret | None
    ) -> tuple[str | None, str | None]:
        """Encrypt both tokens for that generation of the account."""
        return self._encrypt(ref, ACCESS, access), self._encrypt(ref, REFRESH, refresh)

    def access_token(self, holder: Account | Successor) -> Secret | None:
        """Decrypt the access token; raises DecryptionFailed."""
        return self._decrypt(holder, ACCESS, holder.sealed_access)

    def refresh_token(self, holder: Account | Successor) -> Secret | None:
        """Decrypt the refresh token; raises DecryptionFailed."""
        return self._decrypt(holder, REFRESH, holder.sealed_refresh)

    def fingerprint(self, token: Secret | None) -> str:
        """Return the keyed hash that the audit has in place of a token; empty without a token."""
        return "" if token is None else self._keyring.fingerprint("audit token", token.reveal())

    def encrypt_spare(self, parent: Ref, id_: str, token: Secret) -> str:
        """Encrypt a spare refresh token of the generation `parent`."""
        return self._keyring.encrypt(spare_place(parent, id_), token)

    def spare_token(self, spare: Spare) -> Secret:
        """Decrypt a spare refresh token; raises DecryptionFailed."""
        parent = Ref(spare.account, spare.epoch, spare.generation)
        return self._keyring.decrypt(spare_place(parent, spare.id), spare.sealed)

    def encrypt_pending(self, state_hash: str, field: str, secret: Secret | None) -> str | None:
        """Encrypt a secret of a pending install, which has no account yet."""
        return None if secret is None else self._keyring.encrypt(pending_place(state_hash, field), secret)

    def decrypt_pending(self, state_hash: str, field: str, record: str | None) -> Secret | None:
        """Decrypt a secret of a pending install; raises DecryptionFailed."""
        return None if record is None else self._keyring.decrypt(pending_place(state_hash, field), record)

    def _encrypt(self, ref: Ref, field: str, token: Secret | None) -> str | None:
        return None if token is None else self._keyring.encrypt(token_place(ref, field), token)

    def _decrypt(self, holder: Account | Successor, field: str, record: str | None) -> Secret | None:
        if record is None:
            return None
        return self._keyring.decrypt(token_place(_ref_of(holder), field), record)


def records_in(value: Encrypted) -> Mapping[str, tuple[Place, str]]:
    """Return the encrypted records in a value, and their places, by field."""
    match value:
        case Account() | Successor():
            ref = _ref_of(value)
            places = {"sealed_access": token_place(ref, ACCESS), "sealed_refresh": token_place(ref, REFRESH)}
        case Spare():
            places = {"sealed": spare_place(Ref(value.account, value.epoch, value.generation), value.id)}
        case PendingInstall():
            places = {"sealed_verifier": pending_place(value.state_hash, VERIFIER)}
        case PendingGrant():
            state_hash = value.install.state_hash
            places = {
                "sealed_access": pending_place(state_hash, ACCESS),
                "sealed_refresh": pending_place(state_hash, REFRESH),
            }
        case _:
            assert_never(value)
    records = ((field, place, getattr(value, field)) for field, place in places.items())
    return {field: (place, record) for field, place, record in records if record is not None}


def encrypted_anew(value: E, keyring: Keyring) -> E:
    """Return the value with its secrets encrypted again, with the active key; raises DecryptionFailed."""
    fields: dict[str, Any] = {field: keyring.reencrypt(*where) for field, where in records_in(value).items()}
    return replace(value, **fields)


def _ref_of(holder: Account | Successor) -> Ref:
    return holder.ref if isinstance(holder, Account) else after(holder.parent)


def after(parent: Ref) -> Ref:
    """Return the generation that follows `parent`."""
    return replace(parent, generation=parent.generation + 1)


def token_place(ref: Ref, field: str) -> Place:
    """Return the place of an account's token."""
    return Place("accounts", ref.name, ref.epoch, ref.generation, field)


def spare_place(parent: Ref, id_: str) -> Place:
    """Return the place of a spare refresh token. One that arrived too late keeps its place as a successor."""
    if id_.startswith(LATE):
        return token_place(after(parent), REFRESH)
    return Place("spares", parent.name, parent.epoch, parent.generation, f"{REFRESH}:{id_}")


def pending_place(state_hash: str, field: str) -> Place:
    """Return the place of a secret of a pending install, which has no account yet."""
    return Place("installs", state_hash, 0, 0, field)
