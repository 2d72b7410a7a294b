"""Seals token sets for their place in the store, and opens them again."""

from dataclasses import replace

from broker.keyring import Keyring, Place
from broker.model import Account, Ref, Secret, Spare

ACCESS, REFRESH = "access_token", "refresh_token"
LATE = "late:"
"""How the id of a spare begins that was sealed as a successor and came too late."""


class TokenSeals:
    """Access and refresh tokens, bound to (table, name, epoch, generation, field)."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seal(self, ref: Ref, access: Secret | None, refresh: Secret | None) -> tuple[str | None, str | None]:
        """Both tokens, sealed for that generation of that account."""
        return self._seal(ref, ACCESS, access), self._seal(ref, REFRESH, refresh)

    def access_token(self, account: Account) -> Secret | None:
        """Raises SealBroken."""
        return self._open(account.ref, ACCESS, account.sealed_access)

    def refresh_token(self, account: Account) -> Secret | None:
        """Raises SealBroken."""
        return self._open(account.ref, REFRESH, account.sealed_refresh)

    def seal_spare(self, parent: Ref, id_: str, token: Secret) -> str:
        return self._keyring.seal(_spare_place(parent, id_), token)

    def spare_token(self, spare: Spare) -> Secret:
        """Raises SealBroken."""
        parent = Ref(spare.account, spare.epoch, spare.generation)
        if spare.id.startswith(LATE):
            # It was sealed as the successor it could not become.
            return self._keyring.open(
                _place(replace(parent, generation=parent.generation + 1), REFRESH), spare.sealed
            )
        return self._keyring.open(_spare_place(parent, spare.id), spare.sealed)

    def seal_pending(self, state_hash: str, field: str, secret: Secret | None) -> str | None:
        """Something that waits with an install, which has no account yet."""
        return None if secret is None else self._keyring.seal(_pending_place(state_hash, field), secret)

    def open_pending(self, state_hash: str, field: str, record: str | None) -> Secret | None:
        """Raises SealBroken."""
        return None if record is None else self._keyring.open(_pending_place(state_hash, field), record)

    def _seal(self, ref: Ref, field: str, token: Secret | None) -> str | None:
        return None if token is None else self._keyring.seal(_place(ref, field), token)

    def _open(self, ref: Ref, field: str, record: str | None) -> Secret | None:
        return None if record is None else self._keyring.open(_place(ref, field), record)


def _place(ref: Ref, field: str) -> Place:
    return Place("accounts", ref.name, ref.epoch, ref.generation, field)


def _spare_place(parent: Ref, id_: str) -> Place:
    return Place("spares", parent.name, parent.epoch, parent.generation, f"{REFRESH}:{id_}")


def _pending_place(state_hash: str, field: str) -> Place:
    return Place("installs", state_hash, 0, 0, field)
