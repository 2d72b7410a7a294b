"""Seals token sets for their place in the store, and opens them again."""

from dataclasses import replace

from broker.keyring import Keyring, Place
from broker.model import Account, PendingGrant, PendingInstall, Ref, Secret, Spare, Successor

VERIFIER = "verifier"
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

    def fingerprint(self, token: Secret | None) -> str:
        """What the audit says in place of a token; empty where there is none."""
        return "" if token is None else self._keyring.fingerprint("audit token", token.reveal())

    def successor_refresh_token(self, successor: Successor) -> Secret | None:
        """Raises SealBroken."""
        return self._open(after(successor.parent), REFRESH, successor.sealed_refresh)

    def successor_access_token(self, successor: Successor) -> Secret | None:
        """Raises SealBroken."""
        return self._open(after(successor.parent), ACCESS, successor.sealed_access)

    def seal_spare(self, parent: Ref, id_: str, token: Secret) -> str:
        return self._keyring.seal(spare_place(parent, id_), token)

    def spare_token(self, spare: Spare) -> Secret:
        """Raises SealBroken."""
        parent = Ref(spare.account, spare.epoch, spare.generation)
        return self._keyring.open(spare_place(parent, spare.id), spare.sealed)

    def seal_pending(self, state_hash: str, field: str, secret: Secret | None) -> str | None:
        """Something that waits with an install, which has no account yet."""
        return None if secret is None else self._keyring.seal(pending_place(state_hash, field), secret)

    def open_pending(self, state_hash: str, field: str, record: str | None) -> Secret | None:
        """Raises SealBroken."""
        return None if record is None else self._keyring.open(pending_place(state_hash, field), record)

    def _seal(self, ref: Ref, field: str, token: Secret | None) -> str | None:
        return None if token is None else self._keyring.seal(token_place(ref, field), token)

    def _open(self, ref: Ref, field: str, record: str | None) -> Secret | None:
        return None if record is None else self._keyring.open(token_place(ref, field), record)


class Reseals:
    """The same secrets in the same places under the active key; every method raises SealBroken."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def account(self, account: Account) -> Account:
        access, refresh = self._both(account.ref, account.sealed_access, account.sealed_refresh)
        return replace(account, sealed_access=access, sealed_refresh=refresh)

    def successor(self, successor: Successor) -> Successor:
        ref = after(successor.parent)
        access, refresh = self._both(ref, successor.sealed_access, successor.sealed_refresh)
        return replace(successor, sealed_access=access, sealed_refresh=refresh)

    def spare(self, spare: Spare) -> Spare:
        place = spare_place(Ref(spare.account, spare.epoch, spare.generation), spare.id)
        return replace(spare, sealed=self._keyring.reseal(place, spare.sealed))

    def install(self, install: PendingInstall) -> PendingInstall:
        verifier = self._again(pending_place(install.state_hash, VERIFIER), install.sealed_verifier)
        return replace(install, sealed_verifier=verifier)

    def grant(self, grant: PendingGrant) -> PendingGrant:
        state_hash = grant.install.state_hash
        access = self._again(pending_place(state_hash, ACCESS), grant.sealed_access)
        refresh = self._again(pending_place(state_hash, REFRESH), grant.sealed_refresh)
        return replace(grant, sealed_access=access, sealed_refresh=refresh)

    def _both(self, ref: Ref, access: str | None, refresh: str | None) -> tuple[str | None, str | None]:
        return self._again(token_place(ref, ACCESS), access), self._again(token_place(ref, REFRESH), refresh)

    def _again(self, place: Place, record: str | None) -> str | None:
        return None if record is None else self._keyring.reseal(place, record)


def after(parent: Ref) -> Ref:
    """The generation that follows."""
    return replace(parent, generation=parent.generation + 1)


def token_place(ref: Ref, field: str) -> Place:
    """Of an account's token."""
    return Place("accounts", ref.name, ref.epoch, ref.generation, field)


def spare_place(parent: Ref, id_: str) -> Place:
    """Of a refresh token that is not current; what came too late lies where it would have been current."""
    if id_.startswith(LATE):
        return token_place(after(parent), REFRESH)
    return Place("spares", parent.name, parent.epoch, parent.generation, f"{REFRESH}:{id_}")


def pending_place(state_hash: str, field: str) -> Place:
    """Of what waits with an install, which has no account yet."""
    return Place("installs", state_hash, 0, 0, field)
