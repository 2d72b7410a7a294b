"""Encrypts and decrypts token sets for their place in the store."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, assert_never

from broker.encryption.keyring import Keyring, Place
from broker.model import Account, PendingGrant, PendingInstall, Ref, Secret, Spare, Successor

VERIFIER = "verifier"
ACCESS, REFRESH = "access_token", "refresh_token"
LATE = "late:"
"""The prefix of the id of a spare that was encrypted as a successor and came too late."""

Encrypted = Account | Successor | Spare | PendingInstall | PendingGrant
"""The values that hold encrypted records."""
E = TypeVar("E", bound=Encrypted)


class TokenEncryption:
    """Access and refresh tokens, bound to (table, name, epoch, generation, field)."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def encrypt(
        self, ref: Ref, access: Secret | None, refresh: Secret | None
    ) -> tuple[str | None, str | None]:
        """Encrypt both tokens for that generation of that account."""
        return self._encrypt(ref, ACCESS, access), self._encrypt(ref, REFRESH, refresh)

    def access_token(self, holder: Account | Successor) -> Secret | None:
        """Raises DecryptionFailed."""
        return self._decrypt(holder, ACCESS, holder.sealed_access)

    def refresh_token(self, holder: Account | Successor) -> Secret | None:
        """Raises DecryptionFailed."""
        return self._decrypt(holder, REFRESH, holder.sealed_refresh)

    def fingerprint(self, token: Secret | None) -> str:
        """Return what the audit says in place of a token; empty if there is none."""
        return "" if token is None else self._keyring.fingerprint("audit token", token.reveal())

    def encrypt_spare(self, parent: Ref, id_: str, token: Secret) -> str:
        return self._keyring.encrypt(spare_place(parent, id_), token)

    def spare_token(self, spare: Spare) -> Secret:
        """Raises DecryptionFailed."""
        parent = Ref(spare.account, spare.epoch, spare.generation)
        return self._keyring.decrypt(spare_place(parent, spare.id), spare.sealed)

    def encrypt_pending(self, state_hash: str, field: str, secret: Secret | None) -> str | None:
        """Encrypt a secret of a pending install, which has no account yet."""
        return None if secret is None else self._keyring.encrypt(pending_place(state_hash, field), secret)

    def decrypt_pending(self, state_hash: str, field: str, record: str | None) -> Secret | None:
        """Raises DecryptionFailed."""
        return None if record is None else self._keyring.decrypt(pending_place(state_hash, field), record)

    def _encrypt(self, ref: Ref, field: str, token: Secret | None) -> str | None:
        return None if token is None else self._keyring.encrypt(token_place(ref, field), token)

    def _decrypt(self, holder: Account | Successor, field: str, record: str | None) -> Secret | None:
        if record is None:
            return None
        ref = holder.ref if isinstance(holder, Account) else after(holder.parent)
        return self._keyring.decrypt(token_place(ref, field), record)


def records_in(value: Encrypted) -> Mapping[str, tuple[Place, str]]:
    """The encrypted records that a value holds, and their places, by the field."""
    match value:
        case Account():
            places = _places_of_tokens(value.ref)
        case Successor():
            places = _places_of_tokens(after(value.parent))
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
    """Return the same value with its secrets encrypted with the active key; raises DecryptionFailed."""
    fields: dict[str, Any] = {field: keyring.reencrypt(*where) for field, where in records_in(value).items()}
    return replace(value, **fields)


def _places_of_tokens(ref: Ref) -> dict[str, Place]:
    return {"sealed_access": token_place(ref, ACCESS), "sealed_refresh": token_place(ref, REFRESH)}


def after(parent: Ref) -> Ref:
    """Return the next generation."""
    return replace(parent, generation=parent.generation + 1)


def token_place(ref: Ref, field: str) -> Place:
    """Return the place of an account's token."""
    return Place("accounts", ref.name, ref.epoch, ref.generation, field)


def spare_place(parent: Ref, id_: str) -> Place:
    """Return the place of a spare refresh token. One that came too late has the place where it would be current."""
    if id_.startswith(LATE):
        return token_place(after(parent), REFRESH)
    return Place("spares", parent.name, parent.epoch, parent.generation, f"{REFRESH}:{id_}")


def pending_place(state_hash: str, field: str) -> Place:
    """Return the place of a secret of a pending install, which has no account yet."""
    return Place("installs", state_hash, 0, 0, field)
