"""An opened account, and the same as bytes: nothing that the garbage collector would have to look at."""

import marshal
import sys
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, NamedTuple

from broker.model import Account, Secret, Trouble

UNTROUBLED = Trouble()
VERSION = 2
"""Of marshal: the one without references, which would cost more than they save here."""
_NAMES = [field.name for field in fields(Account) if field.name != "name"]
_TROUBLE = _NAMES.index("trouble")
_WORDS = [_NAMES.index(name) for name in ("provider", "client_id", "token_type", "scope")]
"""What many accounts have in common."""
_SEALED = [_NAMES.index(name) for name in ("sealed_access", "sealed_refresh")]
_FIRST = ("unusable", "provider", "token_type", "scope", "generation", "issued_at", "expires_at")
"""What a glimpse shows. The rest lies packed once more behind it, and is mostly left so."""
_REST = [name for name in _NAMES if name != "trouble" and name not in _FIRST]
_values = attrgetter(*_NAMES)
_first, _rest = attrgetter(*_FIRST), attrgetter(*_REST)


@dataclass(frozen=True, slots=True)
class OpenedAccount:
    """An account and its access token in clear."""

    account: Account
    """Its sealed tokens are empty texts where there are any: only the store has the records."""
    access_token: Secret | None
    fingerprint: str
    """Of the token, as the audit knows it."""
    unchecked: bool = False
    """Other brokers may have renewed it, and the store could not be asked."""


class Glimpse(NamedTuple):
    """So much of an account as a token takes that is handed out while nothing has to be decided."""

    name: str
    provider: str
    token_type: str
    scope: str
    generation: int
    issued_at: float
    expires_at: float
    access_token: Secret
    fingerprint: str

    @property
    def life(self) -> float:
        """Seconds, as `Account.life`."""
        return max(1.0, self.expires_at - self.issued_at)


def lean(account: Account) -> Account:
    """The account without what it need not have for itself: two thirds of what a row takes in memory."""
    values = list(_values(account))
    for place in _WORDS:
        values[place] = sys.intern(values[place])
    for place in _SEALED:
        values[place] = None if values[place] is None else ""
    if account.trouble == UNTROUBLED:
        values[_TROUBLE] = UNTROUBLED
    # By position: `replace` would take three times as long, and every cold token comes by here.
    return Account(account.name, *values)


def glimpse_of(opened: OpenedAccount) -> Glimpse | None:
    """None where there is no token that could be handed out."""
    account, token = opened.account, opened.access_token
    if token is None or account.unusable:
        return None
    return Glimpse(
        account.name,
        account.provider,
        account.token_type,
        account.scope,
        account.generation,
        account.issued_at,
        account.expires_at,
        token,
        opened.fingerprint,
    )


Packed = bytes
"""It holds a token in clear, as a `Secret` does. No class of our own: the collector would look at its instances."""


def pack(opened: OpenedAccount) -> Packed | None:
    """All of it but its name; None where anything ails the account, which is rare and is read again."""
    account, token = opened.account, opened.access_token
    if (
        account.trouble is not UNTROUBLED
        or account.intent
        or account.frozen
        or account.dead
        or opened.unchecked
    ):
        return None
    text = None if token is None else token.reveal()
    rest = marshal.dumps(_rest(account), VERSION)
    return marshal.dumps((text, opened.fingerprint, rest, *_first(account)), VERSION)


def unpack(name: str, packed: Packed) -> OpenedAccount:
    """What was packed under that name."""
    token, fingerprint, rest, *first = _unpacked(packed)
    values = dict(zip((*_FIRST, *_REST), (*first, *_unpacked(rest)), strict=True))
    account = Account(name=name, trouble=UNTROUBLED, **values)
    return OpenedAccount(account, None if token is None else Secret(token), fingerprint)


def glimpse(name: str, packed: Packed) -> Glimpse | None:
    """The same as of what was packed under that name, at a tenth of the price."""
    token, mark, _, unusable, provider, type_, scope, generation, issued_at, expires_at = _unpacked(packed)
    if token is None or unusable:
        return None
    return Glimpse(name, provider, type_, scope, generation, issued_at, expires_at, Secret(token), mark)


def _unpacked(packed: Packed) -> Any:
    return marshal.loads(packed)  # noqa: S302 - made by `pack`, in this process
