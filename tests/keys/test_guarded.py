"""Nothing is stored under a key that is not active, and nobody notices."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from broker.errors import StorageUnavailable
from broker.keyring import KeyNotActive, kid_of
from broker.model import Secret, Spare
from broker.store.keys import KeyStore
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
    access, refresh = here.seals.seal(RENAMED, Secret("at-2"), Secret("rt-2"))
    renamed = replace(
        here.account(), name="renamed", epoch=2, generation=2, sealed_access=access, sealed_refresh=refresh
    )
    spare = Spare("one", "renamed", 2, 2, here.seals.seal_spare(RENAMED, "one", Secret("spare-one")), 5.0)
    assert await here.stores.accounts.rename(FIRST, renamed, spares=[spare], next_at=None, old_name_hash="h")


async def _begin_install(here: Sealed) -> None:
    await here.stores.installs.begin_install(here.install("new"))


async def _hold_grant(here: Sealed) -> None:
    await here.stores.installs.hold_grant(here.grant(here.install("known")))


@pytest.mark.parametrize(
    ("store", "records"),
    [(_commit, 2), (_add_spare, 1), (_connect, 2), (_rename, 3), (_begin_install, 1), (_hold_grant, 2)],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
async def test_what_was_sealed_too_early_is_sealed_anew(
    sealed: Sealed, store: Callable[[Sealed], Awaitable[None]], records: int
) -> None:
    """Another process made a key active; a write of this one, which knows nothing of it, lies under that key."""
    await sealed.connect()
    await sealed.stores.installs.begin_install(sealed.install("known"))
    other = await sealed.other()
    new = (await other.ring.add_key()).kid

    await store(sealed)

    assert new == sealed.ring.keyring.active
    assert records == (await sealed.totals())[new]
    assert await _everything_opens(sealed)


async def _everything_opens(here: Sealed) -> bool:
    for name in ("acme", "globex", "renamed"):
        if one := await here.stores.accounts.get(name):
            assert here.seals.access_token(one) == Secret(f"at-{one.generation}")
            assert here.seals.refresh_token(one) == Secret(f"rt-{one.generation}")
            for spare in await here.stores.accounts.spares(name, one.epoch):
                assert here.seals.spare_token(spare) == Secret(f"spare-{spare.id}")
    for grant in await here.stores.installs.held_grants(99.0, 9):
        state = grant.install.state_hash
        assert here.seals.open_pending(state, "access_token", grant.sealed_access) == Secret("pending-at")
    return True


async def test_store_itself_refuses_a_key_that_is_not_active(sealed: Sealed) -> None:
    """Whatever the statement; the row is as it was."""
    await sealed.connect()
    before = await sealed.stores.accounts.get("acme")
    late = sealed.successor(FIRST)
    await sealed.ring.add_key()

    with pytest.raises(KeyNotActive):
        await sealed.stores.database.write(
            lambda one: one.execute("UPDATE accounts SET sealed_access = $1", late.sealed_access)
        )

    assert before == await sealed.stores.accounts.get("acme")


async def test_retired_and_forgotten_keys_are_refused_too(sealed: Sealed) -> None:
    """For ever: the id stays when the key is forgotten."""
    late, old = sealed.successor(FIRST), sealed.ring.keyring.active
    await sealed.ring.add_key()
    assert await sealed.stores.keys.retire_key(old, 1.0)
    assert 1 == await sealed.stores.keys.forget_retired_keys(2.0)

    with pytest.raises(KeyNotActive):
        await sealed.stores.database.write(
            lambda one: one.execute("UPDATE accounts SET sealed_access = $1", late.sealed_access)
        )

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
    assert Secret("at-1") == sealed.seals.access_token(one)


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

    with pytest.raises(StorageUnavailable, match="cannot be opened here"):
        await sealed.stores.accounts.commit(sealed.successor(FIRST), [])

    assert 3 == len(await keys.keys())
    assert 1 == (await sealed.account_generation())
