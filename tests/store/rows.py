"""Rows that the store's tests begin with."""

from broker.encryption.keyring import Keyring
from broker.model import (
    Account,
    CallerKey,
    CallerRecord,
    Intent,
    PendingInstall,
    Permission,
    Ref,
    Successor,
    Ticket,
)
from broker.store import Stores
from broker.store.database import Database

KEYRING = Keyring(active="00" * 8, keys={"00" * 8: b"k" * 32}, index_key=b"i" * 32)


def plain_stores(database: Database) -> Stores:
    """The stores on a database, for tests in which no key is added."""

    async def catch_up() -> None:
        pass

    return Stores(database, keyring=KEYRING, catch_up=catch_up)


FIRST = Ref("acme", 1, 1)


def account(name: str = "acme", *, epoch: int = 1, generation: int = 1, provider: str = "kit") -> Account:
    return Account(
        name=name,
        provider=provider,
        epoch=epoch,
        generation=generation,
        client_id="c",
        sealed_access=f"access-{generation}",
        sealed_refresh=f"refresh-{generation}",
        token_type="Bearer",
        scope="public",
        issued_at=100.0,
        expires_at=1000.0,
        refreshed_at=100.0,
        created_at=100.0,
        external_id=f"id of {name}",
    )


async def connect(stores: Stores, name: str = "acme", *, next_at: float | None = 700.0) -> Account:
    one = account(name)
    assert await stores.accounts.connect(one, expected=None, next_at=next_at, grant=None, events=[])
    return one


def successor(parent: Ref = FIRST) -> Successor:
    number = parent.generation + 1
    return Successor(
        parent, f"access-{number}", f"refresh-{number}", "Bearer", "public", 900, 1900, 900, 1600, False
    )


def intent(owner: str = "me", *, at: float = 10.0, until: float = 130.0) -> Intent:
    return Intent("i", 1, at, owner, until)


def install(
    state_hash: str = "state", *, ticket_hash: str | None = None, expires_at: float = 700.0
) -> PendingInstall:
    return PendingInstall(
        state_hash=state_hash,
        provider="kit",
        client_id="c",
        browser_hash="b",
        ticket_hash=ticket_hash,
        account="acme",
        org=None,
        return_to=None,
        kit_return_url=None,
        replace=False,
        subject=None,
        created_by="test",
        sealed_verifier="v",
        redirect_uri="http://127.0.0.1/callback/kit",
        created_at=100.0,
        expires_at=expires_at,
    )


def ticket(ticket_hash: str = "t", account: str | None = "acme") -> Ticket:
    return Ticket(ticket_hash, "kit", account, None, None, False, None, "test", 3700.0)


def caller(name: str = "service") -> CallerRecord:
    return CallerRecord(name, ("kit-*",), frozenset({Permission.TOKEN}), 100.0)


def key(key_id: str = "k1", caller: str = "service", *, at: float = 100.0) -> CallerKey:
    return CallerKey(key_id, caller, f"hash of {key_id}", at, None)
