"""Nothing is stored under a key that is not active, and nobody notices."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from broker import store
from broker.encryption.keyring import KeyNotActive, kid_of
from broker.errors import StorageUnavailable
from broker.model import Secret, Spare, Successor
from broker.store.database import Table
from broker.store.keys import ENCRYPTED, KeyStore
from broker.store.renewals import Committed
from tests.keys.conftest import Sealed
from tests.store.rows import FIRST

RENAMED = replace(FIRST, name="renamed", epoch=2, generation=2)


async def _commit(here: Sealed) -> None:
    assert Committed() == await here.stores.accounts.commit(here.successor(FIRST), [])


async def _add_spare(here: Sealed) -> None:
    await here.stores.accounts.add_spare(here.spare(FIRST, "one"))


async def _connect(here: Sealed) -> None:
    await here.connect("globex")


async def _rename(here: Sealed) -> None:
    access, refresh = here.encryption.encrypt(RENAMED, Secret("at-2"), Secret("rt-2"))
    renamed = replace(
        here.account(), name="renamed", epoch=2, generation=2, sealed_access=access, sealed_refresh=refresh
    )
    spare = Spare(
        "one", "renamed", 2, 2, here.encryption.encrypt_spare(RENAMED, "one", Secret("spare-one")), 5.0
    )
    assert await here.stores.accounts.rename(FIRST, renamed, spares=[spare], next_at=None, old_name_hash="h")


async def _begin_install(here: Sealed) -> None:
    await here.stores.installs.begin_install(here.install("new"))


async def _claim_install(here: Sealed) -> None:
    assert await here.stores.installs.claim_install(here.install("new"))


async def _import(here: Sealed) -> None:
    one = here.account("globex")
    assert await here.stores.imports.add(one, expected=None, next_at=None, grant_hash="h", events=[])


async def _hold_grant(here: Sealed) -> None:
    await here.stores.installs.hold_grant(here.grant(here.install("known")))


@pytest.mark.parametrize(
    ("put", "records"),
    [
        (_commit, 2),
        (_add_spare, 1),
        (_connect, 2),
        (_rename, 3),
        (_begin_install, 1),
        (_hold_grant, 2),
        (_claim_install, 1),
        (_import, 2),
    ],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
async def test_what_was_sealed_too_early_is_sealed_anew(
    sealed: Sealed, put: Callable[[Sealed], Awaitable[None]], records: int
) -> None:
    """Another process made a key active; a write of this one, which knows nothing of it, lies under that key."""
    await sealed.connect()
    await sealed.stores.installs.begin_install(sealed.install("known"))
    other = await sealed.other()
    new = (await other.ring.add_key()).kid

    await put(sealed)

    assert new == sealed.ring.keyring.active
    assert records == (await sealed.totals())[new]
    assert await _everything_opens(sealed)


async def _everything_opens(here: Sealed) -> bool:
    for name in ("acme", "globex", "renamed"):
        if one := await here.stores.accounts.get(name):
            assert here.encryption.access_token(one) == Secret(f"at-{one.generation}")
            assert here.encryption.refresh_token(one) == Secret(f"rt-{one.generation}")
            for spare in await here.stores.accounts.spares(name, one.epoch):
                assert here.encryption.spare_token(spare) == Secret(f"spare-{spare.id}")
    for grant in await here.stores.installs.held_grants(99.0, 9):
        state = grant.install.state_hash
        assert here.encryption.decrypt_pending(state, "access_token", grant.sealed_access) == Secret(
            "pending-at"
        )
    return True


async def _require_refused(here: Sealed, late: Successor) -> None:
    """As a replacement, which the store itself does not encrypt anew."""
    [current] = await here.stores.records.page(ENCRYPTED[0], "", 9)
    assert late.sealed_access is not None
    with pytest.raises(KeyNotActive):
        await here.stores.records.replace(ENCRYPTED[0], [(current, late.sealed_access)])


def writers(source: str, constants: dict[str, object]) -> dict[str, bool]:
    """The methods of a store module that store a record, and whether they write through the keys."""
    columns = [(one.table, one.column) for one in ENCRYPTED]

    def stores_one(sql: object) -> bool:
        return isinstance(sql, str) and any(
            f"INSERT INTO {table} " in sql or f"{column} = $" in sql for table, column in columns
        )

    tree = ast.parse(source)
    storing = {name for name, value in constants.items() if stores_one(value)} | {
        "insert_spare",
        "put_account",
    }
    # A table's own statement and method, where no constant has the statement.
    tables = [name for name, value in constants.items() if stores_one(getattr(value, "insert", None))]
    storing |= {f"{name}.{word}" for name in tables for word in ("insert", "add")}
    helpers = [one for one in tree.body if isinstance(one, ast.AsyncFunctionDef)]
    storing |= {one.name for one in helpers if _uses(one, storing, stores_one)}
    methods = (one for kind in tree.body if isinstance(kind, ast.ClassDef) for one in kind.body)
    return {
        one.name: "self._keys.write" in ast.unparse(one)
        for one in methods
        if isinstance(one, ast.AsyncFunctionDef) and _uses(one, storing, stores_one)
    }


def _uses(function: ast.AST, names: set[str], is_sql: Callable[[object], bool]) -> bool:
    return any(
        (isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in names)
        or (isinstance(node, ast.Constant) and is_sql(node.value))
        for node in ast.walk(function)
    )


def test_whatever_stores_a_record_writes_through_the_keys() -> None:
    """So that no statement stores one without the check of the active key."""
    found: dict[str, bool] = {}
    for found_module in pkgutil.iter_modules(store.__path__):
        module = importlib.import_module(f"broker.store.{found_module.name}")
        found |= writers(inspect.getsource(module), vars(module))

    assert (
        dict.fromkeys(
            (
                "connect",
                "rename",
                "add",
                "begin_install",
                "claim_install",
                "hold_grant",
                "commit",
                "add_spare",
            ),
            True,
        )
        == found
    )


def test_write_beside_the_keys_is_seen() -> None:
    """The reader of the modules knows one when there is one."""
    source = """
class Store:
    async def put(self, record):
        await self._database.write(lambda one: one.execute("UPDATE accounts SET sealed_access = $1", record))
"""

    assert {"put": False} == writers(source, {})


@pytest.mark.parametrize("call", ["SPARES.add(one, spare)", "one.execute(SPARES.insert, 'x')"])
def test_write_of_a_table_beside_the_keys_is_seen(call: str) -> None:
    """A table that holds records is written through the keys like a statement."""
    source = f"""
class Store:
    async def put(self, spare):
        await self._database.write(lambda one: {call})
"""

    assert {"put": False} == writers(source, {"SPARES": Table("spares", Spare)})


async def test_store_itself_refuses_a_key_that_is_not_active(sealed: Sealed) -> None:
    """The row is as it was."""
    await sealed.connect()
    before = await sealed.stores.accounts.get("acme")
    late = sealed.successor(FIRST)
    await sealed.ring.add_key()

    await _require_refused(sealed, late)

    assert before == await sealed.stores.accounts.get("acme")


async def test_retired_and_forgotten_keys_are_refused_too(sealed: Sealed) -> None:
    """For ever: the id stays when the key is forgotten."""
    await sealed.connect()
    late, old = sealed.successor(FIRST), sealed.ring.keyring.active
    await sealed.ring.add_key()
    assert await sealed.stores.keys.retire_key(old, 1.0)
    assert 1 == await sealed.stores.keys.forget_retired_keys(2.0)

    await _require_refused(sealed, late)

    assert [""] == [key.wrapped for key in await sealed.stores.keys.keys() if key.kid == old]


async def test_text_that_looks_like_a_record_is_just_text(sealed: Sealed) -> None:
    """A person may call their account whatever they like."""
    await sealed.connect()
    label = "VEIx" + "A" * 60

    assert await sealed.stores.accounts.relabel("acme", label=label, subject=None)
    shown = await sealed.stores.accounts.get("acme")

    assert shown is not None
    assert label == shown.label


async def test_unknown_key_makes_the_ring_read_the_store(sealed: Sealed) -> None:
    """What another process sealed with its new key opens here at once."""
    other = await sealed.other()
    new = (await other.ring.add_key()).kid
    await other.connect()

    one = await sealed.stores.accounts.get("acme")

    assert one is not None
    assert new == kid_of(one.sealed_access or "") == sealed.ring.keyring.active
    assert Secret("at-1") == sealed.encryption.access_token(one)


async def test_key_under_a_strange_master_ends_in_a_clear_error(sealed: Sealed) -> None:
    """The active key cannot be had here: the store is unavailable to this process, and nothing is written."""
    await sealed.connect()
    keys = KeyStore(sealed.database)
    other = await sealed.other()
    strange = replace(await other.ring.add_key(), wrapped="x" * 80, master_id="00000000")
    await sealed.database.write(
        lambda one: one.execute(
            "UPDATE keys SET wrapped = $2, master_id = $3 WHERE kid = $1",
            strange.kid,
            strange.wrapped,
            strange.master_id,
        )
    )

    with pytest.raises(StorageUnavailable, match="cannot be unwrapped here"):
        await sealed.stores.accounts.commit(sealed.successor(FIRST), [])

    assert 3 == len(await keys.keys())
    assert 1 == (await sealed.account_generation())
