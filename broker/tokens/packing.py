"""An opened account, and the same as bytes: nothing that the garbage collector would have to look at."""

import marshal
import sys
from dataclasses import dataclass, fields
from operator import attrgetter

from broker.model import Account, Secret, Trouble

UNTROUBLED = Trouble()
VERSION = 2
"""Of marshal: the one without references, which would cost more than they save here."""
_NAMES = [field.name for field in fields(Account) if field.name != "name"]
_TROUBLE = _NAMES.index("trouble")
_WORDS = [_NAMES.index(name) for name in ("provider", "client_id", "token_type", "scope")]
"""What many accounts have in common."""
_SEALED = [_NAMES.index(name) for name in ("sealed_access", "sealed_refresh")]
_values = attrgetter(*(name for name in _NAMES if name != "trouble"))


@dataclass(frozen=True, slots=True)
class OpenedAccount:
    """An account and its access token in clear."""

    account: Account
    """Its sealed tokens are empty texts where there are any: only the store has the records."""
    access_token: Secret | None
    unchecked: bool = False
    """Other brokers may have renewed it, and the store could not be asked."""


def lean(account: Account) -> Account:
    """The account without what it need not have for itself: two thirds of what a row takes in memory."""
    values = list(_values(account))
    for place in _WORDS:
        values[place] = sys.intern(values[place])
    for place in _SEALED:
        values[place] = None if values[place] is None else ""
    values.insert(_TROUBLE, UNTROUBLED if account.trouble == UNTROUBLED else account.trouble)
    # By position: `replace` would take three times as long, and every cold token comes by here.
    return Account(account.name, *values)


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
    return marshal.dumps((text, *_values(account)), VERSION)


def unpack(name: str, packed: Packed) -> OpenedAccount:
    """What was packed under that name."""
    token, *values = marshal.loads(packed)  # noqa: S302 - made by `pack`, in this process
    values.insert(_TROUBLE, UNTROUBLED)
    account = Account(name, *values)
    return OpenedAccount(account, None if token is None else Secret(token))
