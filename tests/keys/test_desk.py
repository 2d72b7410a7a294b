"""`broker keys` inside the broker: what is listed, when a key is dropped, what is refused."""

import re
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from broker.admin.keys import RETIRED_FOR
from broker.encryption.keyring import kid_at_front, kid_of
from broker.encryption.tokens import REFRESH, after, token_place
from broker.errors import BrokerError, Conflict, NotFound
from broker.model import Secret, Successor
from broker.store.retained import renewals_spool
from tests.house import OPERATOR, House
from tests.store.rows import FIRST, successor

WHO = {"request_id": "test"}


async def _listed(house: House) -> dict[str, tuple[str, int]]:
    keys = await house.broker.keys.keys(OPERATOR, **WHO)
    return {key["kid"]: (key["state"], key["records"]) for key in keys if key["purpose"] == "data"}


async def _rewrapped(house: House) -> None:
    step = await house.broker.keys.rewrap(OPERATOR, None, **WHO)
    assert step["cursor"] is None


async def test_key_is_replaced_from_new_to_drop(house: House) -> None:
    """New writes go to the new key, the rest follows with rewrap, and the old one is retired; all still open."""
    await house.connect("kit", "acme")
    await house.connect("kit", "globex", account="30")
    old = house.broker.context.keyring.active
    desk = house.broker.keys

    new = (await desk.new(OPERATOR, **WHO))["kid"]
    renewed = await house.post("/token/acme/refresh")
    between = await _listed(house)
    with pytest.raises(
        Conflict, match=r"^1 in accounts.sealed_access.* are still encrypted with key"
    ) as refused:
        await desk.drop(OPERATOR, old, **WHO)
    await _rewrapped(house)
    moved = await _listed(house)
    dropped = await desk.drop(OPERATOR, old, **WHO)
    await house.restart()

    assert 200 == renewed.status
    assert 409 == refused.value.status
    assert {old: ("old", 2), new: ("active", 2)} == between
    assert {old: ("old", 0), new: ("active", 4)} == moved
    assert ("retired", 0) == (dropped["state"], dropped["records"])
    assert [200, 200] == [(await house.get(f"/token/{name}")).status for name in ("acme", "globex")]


async def test_drop_says_what_is_in_its_way(house: House) -> None:
    """The active one, the one for hashes, one that is gone, one that never was."""
    desk = house.broker.keys
    active = house.broker.context.keyring.active
    [index] = [key["kid"] for key in await desk.keys(OPERATOR, **WHO) if key["purpose"] == "index"]
    await desk.new(OPERATOR, **WHO)
    second = house.broker.context.keyring.active
    await desk.drop(OPERATOR, active, **WHO)

    said = {kid: await _refusal(house, kid) for kid in (second, index, active, "ab" * 8)}

    assert "is the active one" in said[second]
    assert "never removed" in said[index]
    assert "removed already" in said[active]
    assert "There is no key 'abababababababab'. List the keys with: broker keys list" in said["ab" * 8]


async def _refusal(house: House, kid: str) -> str:
    with pytest.raises((Conflict, NotFound)) as caught:
        await house.broker.keys.drop(OPERATOR, kid, **WHO)
    error: BrokerError = caught.value
    return error.detail


async def test_spool_keeps_a_key(house: House) -> None:
    """A token set that the store has not taken yet counts; a file that is not whole may need any key."""
    spool = renewals_spool([house.folder / "var" / "broker.db.spool"])
    keyring, desk = house.broker.context.keyring, house.broker.keys
    old = keyring.active
    record = keyring.encrypt(token_place(after(FIRST), REFRESH), Secret("rt-2"))
    path = spool.write(replace(successor(), sealed_access=None, sealed_refresh=record))
    assert path is not None
    await desk.new(OPERATOR, **WHO)

    spooled = await _refusal(house, old)
    path.write_text("{")
    broken = await _refusal(house, old)
    path.unlink()
    dropped = await desk.drop(OPERATOR, old, **WHO)

    assert spooled.startswith(f"1 in spool is still encrypted with key {old}")
    assert broken.startswith("1 in spool is encrypted with a key that nobody knows")
    assert "retired" == dropped["state"]


async def test_spooled_set_is_stored_under_the_new_key(house: House) -> None:
    """What a crash left in the spool under the old key is committed at the next start, sealed anew."""
    account = await house.connect()
    old = house.broker.context.keyring.active
    access, refresh = house.broker.context.encryption.encrypt(
        after(account.ref), Secret("at-of-the-spool"), Secret("rt-of-the-spool")
    )
    await house.broker.keys.new(OPERATOR, **WHO)
    new = house.broker.context.keyring.active
    await house.close()
    now = house.clock.now()
    renewals_spool([house.folder / "var" / "broker.db.spool"]).write(
        Successor(account.ref, access, refresh, "Bearer", "public", now, now + 9000, now, None, False)
    )

    await house.open()
    await house.broker.tokens.retained.settled()
    stored = await house.account()

    assert 2 == stored.generation
    assert new == kid_of(stored.sealed_refresh or "") != old
    assert Secret("rt-of-the-spool") == house.broker.context.encryption.refresh_token(stored)


async def test_set_that_was_stored_after_all_is_no_spare(house: House) -> None:
    """The commit that seemed to fail had succeeded, then rewrap came: the texts differ, the token does not."""
    account = await house.connect()
    access, refresh = house.broker.context.encryption.encrypt(
        after(account.ref), Secret("at-2"), Secret("rt-2")
    )
    now, spool = house.clock.now(), renewals_spool([house.folder / "var" / "broker.db.spool"])
    seemed_to_fail = Successor(
        account.ref, access, refresh, "Bearer", "public", now, now + 9000, now, None, False
    )
    await house.broker.context.stores.accounts.commit(seemed_to_fail, [])
    await house.broker.keys.new(OPERATOR, **WHO)
    await _rewrapped(house)
    await house.close()
    spool.write(seemed_to_fail)

    await house.open()
    await house.broker.tokens.retained.settled()

    assert 2 == (await house.account()).generation
    assert [] == await house.broker.context.stores.accounts.spares("acme", 1)
    assert [] == spool.read()


async def test_retired_key_still_opens_what_turns_up_late(house: House) -> None:
    """For 400 days, over restarts; then it is forgotten and its id alone stays."""
    desk, keyring = house.broker.keys, house.broker.context.keyring
    old, place = keyring.active, token_place(FIRST, REFRESH)
    late = keyring.encrypt(place, Secret("late"))
    await desk.new(OPERATOR, **WHO)
    await desk.drop(OPERATOR, old, **WHO)
    await house.restart()
    opened = house.broker.context.keyring.decrypt(place, late)
    house.clock.advance(RETIRED_FOR - 60)
    await house.broker.keys.forget_retired(house.clock.now())
    kept = (await _listed(house))[old]
    house.clock.advance(120)
    await house.broker.keys.forget_retired(house.clock.now())
    await house.restart()

    assert Secret("late") == opened
    assert ("retired", 0) == kept
    assert ("forgotten", 0) == (await _listed(house))[old]
    assert not house.broker.context.keyring.holds(old)


async def test_every_sealed_value_of_a_lived_in_store_is_on_the_list(house: House) -> None:
    """Whatever column of whatever table it lies in: what looks like a record is counted."""
    await house.connect("kit", "acme")
    await house.connect("kustomer", "north", org="north")
    await house.post("/token/acme/refresh")
    url, _ = await house.broker.installs.service.create(
        OPERATOR, provider="kit", account="under-way", org=None, return_to=None, replace_identity=False, **WHO
    )
    async with house.session.get(url, allow_redirects=False) as trip:
        assert 302 == trip.status
    with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as connection:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        found = {
            (table, column, value)
            for table in tables
            for (_, column, *_rest) in connection.execute(f"PRAGMA table_info({table})").fetchall()
            for (value,) in connection.execute(f"SELECT {column} FROM {table}")
            if isinstance(value, str) and kid_at_front(value)
        }

    counted = sum(records for _, records in (await _listed(house)).values())

    assert {"accounts", "installs"} == {table for table, _, _ in found}
    assert 5 == counted == len(found)


async def test_only_operators_touch_keys(house: House) -> None:
    """The internal listener has no such routes, whatever the caller may do."""
    key = await house.caller("*", permissions=("admin", "manage"), name="ops")

    answers = [
        await house.ask(method, path, key=key)
        for method, path in (
            ("GET", "/keys"),
            ("POST", "/keys"),
            ("POST", "/keys/rewrap"),
            ("POST", "/backup"),
        )
    ]

    assert [404] * 4 == [answer.status for answer in answers]


async def test_metric_counts_records_by_key(house: House) -> None:
    """Also those with nothing left, so that one sees when a key may be dropped; no older than a minute."""
    await house.connect()
    old = house.broker.context.keyring.active
    desk = house.broker.keys

    before = await _metric(house)
    await desk.new(OPERATOR, **WHO)
    new = house.broker.context.keyring.active
    await _rewrapped(house)
    house.clock.advance(61)
    after_ = await _metric(house)

    assert {old: 2.0} == before
    assert {old: 0.0, new: 2.0} == after_


async def _metric(house: House) -> dict[str, float]:
    text = (await house.broker.overview.metrics_text()).decode()
    return {kid: float(n) for kid, n in re.findall(r'broker_rows_by_key\{kid="(\w+)"\} (\S+)', text)}
