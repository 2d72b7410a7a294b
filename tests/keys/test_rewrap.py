"""Everything moves to the active key, a little at a time, and never over anything newer."""

import asyncio

import pytest

from broker.encryption.keyring import kid_of
from broker.errors import InvalidRequest
from broker.keys import LOOKED_AT, PAGE, Step
from broker.model import Ref, Secret
from broker.store.keys import ENCRYPTED
from broker.store.renewals import Committed
from tests.keys.conftest import Sealed


async def _all(here: Sealed) -> list[Step]:
    steps = [await here.rewrapper.step(None)]
    while steps[-1].cursor is not None:
        steps.append(await here.rewrapper.step(steps[-1].cursor))
    return steps


async def test_everything_sealed_moves(sealed: Sealed) -> None:
    """Tokens, those of removed accounts, spares, held grants, verifiers: every column of the list."""
    await sealed.fill()
    old = sealed.ring.keyring.active
    before = await sealed.stores.records.counts()
    new = (await sealed.ring.add_key()).kid

    [step] = await _all(sealed)

    after = await sealed.stores.records.counts()
    assert {column.name: {old} for column in ENCRYPTED} == {
        name: set(counts) for name, counts in before.items()
    }
    assert {name: {new: counts[old]} for name, counts in before.items()} == after
    assert (9, 9, ()) == (step.looked_at, step.reencrypted, step.unreadable)
    assert await sealed.opens()


async def test_second_walk_finds_nothing_to_do(sealed: Sealed) -> None:
    """What lies under the active key is left as it is, byte for byte."""
    await sealed.fill()
    await sealed.ring.add_key()
    await _all(sealed)
    before = await sealed.stores.accounts.get("acme")

    [step] = await _all(sealed)

    assert (9, 0) == (step.looked_at, step.reencrypted)
    assert before == await sealed.stores.accounts.get("acme")


async def test_walk_goes_on_where_another_process_left_it(sealed: Sealed) -> None:
    """More than one step needs, in pages; the second half is done by who knows only the cursor."""
    names = [f"kit-{number:05}" for number in range(LOOKED_AT + PAGE)]
    await asyncio.gather(*[sealed.connect(name) for name in names])
    new = (await sealed.ring.add_key()).kid

    first = await sealed.rewrapper.step(None)
    halfway = (await sealed.totals())[new]
    other = await sealed.other()
    rest = [await other.rewrapper.step(first.cursor)]
    while rest[-1].cursor is not None:
        rest.append(await other.rewrapper.step(rest[-1].cursor))

    assert LOOKED_AT == first.looked_at == first.reencrypted == halfway
    assert {new: 2 * len(names)} == await sealed.totals()


async def test_record_that_does_not_open_is_named_and_left(sealed: Sealed) -> None:
    """It still counts for its key, so that nobody drops that one; the others go on."""
    await sealed.fill()
    old = sealed.ring.keyring.active
    one = await sealed.stores.accounts.get("acme")
    assert one is not None
    damaged = (one.sealed_refresh or "")[:-4] + "AAAA"
    await sealed.stores.database.write(
        lambda two: two.execute("UPDATE accounts SET sealed_refresh = $1 WHERE name = 'acme'", damaged)
    )
    await sealed.ring.add_key()

    [step] = await _all(sealed)

    assert ("accounts.sealed_refresh of acme",) == step.unreadable
    assert 1 == (await sealed.totals())[old]


async def test_key_made_active_meanwhile_is_noticed(sealed: Sealed) -> None:
    """The walk stops where it is refused, and goes on with the new key."""
    await sealed.fill()
    await sealed.ring.add_key()
    other = await sealed.other()
    newest = (await other.ring.add_key()).kid

    stopped = await sealed.rewrapper.step(None)
    steps = [await sealed.rewrapper.step(stopped.cursor)]

    assert ("accounts.sealed_access:", 0) == (stopped.cursor, stopped.reencrypted)
    assert (9, None) == (steps[0].reencrypted, steps[0].cursor)
    assert {newest: 9} == await sealed.totals()


@pytest.mark.parametrize("cursor", ["", "nonsense", "accounts.name:a", "keys.wrapped:"])
async def test_strange_cursor_is_refused(sealed: Sealed, cursor: str) -> None:
    """With what it should be."""
    with pytest.raises(InvalidRequest, match="earlier answer") as caught:
        await sealed.rewrapper.step(cursor)

    assert 400 == caught.value.status


async def test_row_that_changed_since_it_was_read_is_left(sealed: Sealed) -> None:
    """Compare and set: a renewal between reading and writing wins, whichever key it was sealed with."""
    await sealed.connect()
    column = ENCRYPTED[1]
    [read] = await sealed.stores.records.page(column, "", 9)
    await sealed.stores.accounts.commit(sealed.successor(Ref("acme", 1, 1)), [])
    newer = await sealed.stores.accounts.get("acme")

    replaced = await sealed.stores.records.replace(
        column, [(read, sealed.ring.keyring.reencrypt(read.place, read.record))]
    )

    assert 0 == replaced
    assert newer == await sealed.stores.accounts.get("acme")


@pytest.mark.parametrize("races", [100, pytest.param(1000, marks=pytest.mark.proof)])
async def test_rewrap_never_overwrites_a_renewal(sealed: Sealed, races: int) -> None:
    """So many races of a renewal against a rewrap of its account: after each the newest token is there and opens."""
    await sealed.connect()
    lost: list[int] = []
    reencrypted = 0

    for generation in range(1, races + 1):
        parent = Ref("acme", 1, generation)
        successor = sealed.successor(parent)
        if generation % 2:
            await sealed.ring.add_key()
        outcome, step = await asyncio.gather(
            sealed.stores.accounts.commit(successor, []), sealed.rewrapper.step(None)
        )
        reencrypted += step.reencrypted
        row = await sealed.stores.accounts.get("acme")
        assert row is not None
        token = sealed.encryption.refresh_token(row)
        if (outcome, row.generation, token) != (Committed(), generation + 1, Secret(f"rt-{generation + 1}")):
            lost.append(generation)

    assert [] == lost
    assert reencrypted > races / 4
    assert kid_of((await sealed.connect("last")).sealed_access or "") == sealed.ring.keyring.active
