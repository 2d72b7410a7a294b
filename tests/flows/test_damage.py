"""What rots on the disk: a sentence, a status and a next step, never a crash, and nothing that works is given up."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.encryption.tokens import after
from broker.errors import StartRefused
from broker.model import EventKind, Secret, Successor
from broker.store.retained import renewals_spool
from tests.commanding import as_operator, commands_at
from tests.house import House

LIFE = 172800
ACCESS, REFRESH = "sealed_access", "sealed_refresh"


async def _with_flipped_bits(house: House, *columns: str, front: bool = False) -> None:
    """Stop, flip a bit in each of these records of acme, and start; `front`: in the id of its key."""
    await house.close()
    with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as store, store:
        for column in columns:
            [(record,)] = store.execute(f"SELECT {column} FROM accounts")
            place = 8 if front else len(record) // 2
            flipped = "A" if record[place] != "A" else "B"
            store.execute(
                f"UPDATE accounts SET {column} = ?",
                (record[:place] + flipped + record[place + 1 :],),
            )
    await house.open()


async def _events(house: House) -> list[tuple[str, str | None]]:
    await house.broker.alerts.standing.flush()
    return [(one.kind, one.reason) for one in await house.broker.context.stores.events.last_events(10)]


async def test_account_whose_records_are_damaged_needs_its_person(house: House) -> None:
    """Callers hear what happened and what to do; an event, a line of the check; and connecting again mends it."""
    await house.connect()
    await _with_flipped_bits(house, ACCESS, REFRESH)

    refused = await house.get("/token/acme")
    account = await house.account()
    damaged = await house.broker.context.stores.accounts.damaged(10)
    events = await _events(house)
    await house.connect()

    assert (409, "needs_reauthorization", "record_damaged") == (
        refused.status,
        refused.json["code"],
        refused.json["reason"],
    )
    assert "cannot be decrypted" in refused.json["detail"]
    assert ("needs_reauthorization", "record_damaged") == (account.status, account.reason)
    assert ["acme"] == damaged
    assert (EventKind.NEEDS_REAUTHORIZATION, "record_damaged") in events
    assert 200 == (await house.get("/token/acme")).status
    assert [] == await house.broker.context.stores.accounts.damaged(10)


async def test_damaged_access_token_is_renewed(house: House) -> None:
    """The refresh token brings another, for the first who asks."""
    await house.connect()
    await _with_flipped_bits(house, ACCESS)

    answer = await house.get("/token/acme")

    assert (200, 2) == (answer.status, answer.json["generation"])


async def test_damaged_refresh_token_is_told_while_the_access_token_is_served(house: House) -> None:
    """As a failing renewal at first, and as the end when nothing is left."""
    await house.connect()
    await _with_flipped_bits(house, REFRESH)
    forced = await house.post("/token/acme/refresh")
    served, during = await house.get("/token/acme"), await house.account()
    house.clock.advance(LIFE)
    refused, at_last = await house.get("/token/acme"), await house.account()

    assert (503, 200, 409) == (forced.status, served.status, refused.status)
    assert ("refresh_failing", "record_damaged") == (during.status, during.reason)
    assert ("needs_reauthorization", "record_damaged") == (at_last.status, at_last.reason)


async def test_record_of_a_missing_key_may_come_back(house: House) -> None:
    """It may be sound: nobody is declared dead, and a renewal is tried again."""
    await house.connect()
    await _with_flipped_bits(house, ACCESS, REFRESH, front=True)

    refused, account = await house.get("/token/acme"), await house.account()

    assert (503, "storage_unavailable") == (refused.status, refused.json["code"])
    assert ("refresh_failing", "record_damaged", None) == (account.status, account.reason, account.dead)


async def _successor(house: House) -> Successor:
    """A token set that acme's provider issued and the store has not taken."""
    account, now = await house.account(), house.clock.now()
    access, refresh = house.broker.context.encryption.encrypt(
        after(account.ref), Secret("at-2"), Secret("rt-2")
    )
    times = (now, now + LIFE, now, None, False)
    return Successor(account.ref, access, refresh, "Bearer", "public", *times)


async def _opened_with(house: House, spooled: Successor) -> Path:
    """Stop, put this into the spool, and start."""
    await house.close()
    path = renewals_spool([house.folder / "var" / "broker.db.spool"]).write(spooled)
    assert path is not None
    await house.open()
    return path


async def test_spool_is_stored_before_anybody_asks(house: House) -> None:
    """Whoever demands a renewal right after the start gets one, and nothing says that the store is in trouble."""
    await house.connect()

    path = await _opened_with(house, await _successor(house))
    waiting, problems = len(house.broker.tokens.retained), house.broker.context.health.problems

    assert (0, [], False) == (waiting, problems, path.exists())
    assert 2 == (await house.account()).generation


@pytest.mark.parametrize(("harmed", "generation"), [(REFRESH, 1), (ACCESS, 2)])
async def test_damaged_spool_file_takes_no_working_token_away(
    house: House, harmed: str, generation: int
) -> None:
    """Without a refresh token it is left where it is and told; one without an access token is as good as whole."""
    await house.connect()
    successor = await _successor(house)
    record = getattr(successor, harmed)
    flipped = record[:40] + ("A" if record[40] != "A" else "B") + record[41:]

    path = await _opened_with(house, replace(successor, **{harmed: flipped}))

    told = " ".join(house.broker.context.health.problems)
    assert generation == (await house.account()).generation
    assert (path.exists(), str(path) in told) == (generation == 1, generation == 1)


@pytest.mark.parametrize(
    "changed", [{"expires_at": float("nan")}, {"issued_at": 10**400}, {"scope": "\ud800"}], ids=str
)
async def test_spool_file_that_no_column_takes_is_left_alone(house: House, changed: dict[str, Any]) -> None:
    """It is told as damaged, and the start goes on."""
    await house.connect()

    path = await _opened_with(house, replace(await _successor(house), **changed))

    told = " ".join(house.broker.context.health.problems)
    assert (True, True) == (path.exists(), str(path) in told)
    assert 200 == (await house.get("/token/acme")).status


async def test_late_set_is_kept_where_the_current_one_cannot_be_decrypted(house: House) -> None:
    """The row has moved on and rotted since: what the spool holds is a spare, and may reopen the account."""
    await house.connect()
    late = await _successor(house)
    await house.post("/token/acme/refresh")
    await _with_flipped_bits(house, ACCESS, REFRESH)

    path = await _opened_with(house, late)

    spares = await house.broker.context.stores.accounts.spares("acme", late.parent.epoch)
    assert ([late.sealed_refresh], False) == ([one.sealed for one in spares], path.exists())


def _sql(statement: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "broker.db")) as store, store:
            store.execute(statement)

    return harm


def _fifo(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name, 0o600)

    return harm


def _gone(folder: Path) -> None:
    (folder / "broker.db").unlink()


def _lock_folder(folder: Path) -> None:
    (folder / "broker.db.lock").unlink()
    (folder / "broker.db.lock").mkdir()


def _audit_link(folder: Path) -> None:
    (folder / "audit.jsonl").rename(folder / "elsewhere")
    (folder / "audit.jsonl").symlink_to(folder / "elsewhere")


REFUSED = {
    "store gone": (_gone, "there is no store .*broker restore BACKUP"),
    "lock is a folder": (_lock_folder, "the lock .*no regular file"),
    "lock is a FIFO": (_fifo("broker.db.lock"), "the lock .*no regular file"),
    "journal is a FIFO": (_fifo("broker.db-journal"), "broker.db-journal cannot be opened: it is no regular"),
    "log is a FIFO": (_fifo("broker.db-wal"), "broker.db-wal cannot be opened: it is no regular file"),
    "master is a FIFO": (_fifo("master.key"), "the master key .* is no file"),
    "audit is a link": (_audit_link, "audit.to: .*no regular file"),
    "unknown purpose": (_sql("UPDATE keys SET purpose = 'x' WHERE purpose = 'data'"), "the store is damaged"),
    "key without a date": (_sql("UPDATE keys SET created_at = 'x'"), "keys in the store are damaged"),
    "table gone": (_sql("DROP TABLE events"), "the store cannot be read .*broker restore BACKUP"),
    "key without an id": (_sql("UPDATE keys SET kid = NULL WHERE purpose = 'data'"), "keys in the store are"),
    "key of bytes": (
        _sql("UPDATE keys SET wrapped = x'00ff' WHERE purpose = 'data'"),
        "keys in the store are",
    ),
    "index key lost": (_sql("UPDATE keys SET wrapped = '' WHERE purpose = 'index'"), "restore it from a"),
    "key id of another form": (
        _sql("UPDATE keys SET kid = 'zz' WHERE purpose = 'data'"),
        "the store is damaged",
    ),
    "schema of another form": (_sql("UPDATE schema_version SET version = 'x' WHERE version = 2"), "damaged"),
}


@pytest.mark.parametrize(("harm", "sentence"), REFUSED.values(), ids=REFUSED.keys())
async def test_start_on_damage_is_refused_in_a_sentence(
    house: House, harm: Callable[[Path], None], sentence: str
) -> None:
    """Whichever file or row it is."""
    await house.close()
    harm(house.folder / "var")

    with pytest.raises(StartRefused, match=sentence):
        await house.open()
    shutil.rmtree(house.folder / "var")
    await house.open()


def _sidecar(content: bytes) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / "broker.db.incarnation").write_bytes(content)

    return harm


PASSES = {
    "sidecar nested": _sidecar(b"[" * 100_000),
    "sidecar no text": _sidecar(b"\xff\xfe"),
    "sidecar huge": _sidecar(b" " * 2_000_000 + b"[]"),
    "sidecar is a FIFO": _fifo("broker.db.incarnation"),
    "head of the audit": _sql("UPDATE meta SET value = '[[' WHERE key LIKE 'audit_head%'"),
    "adoption": _sql("INSERT INTO meta VALUES ('adopted', '{}')"),
    "adoption in no time": _sql(
        """INSERT INTO meta VALUES ('adopted', '{"at": 1e999, "doubtful": 1, "names": []}')"""
    ),
    "adoption of no number": _sql(
        """INSERT INTO meta VALUES ('adopted', '{"at": 1, "doubtful": 1e999, "names": []}')"""
    ),
    "time of the backup": _sql("INSERT INTO meta VALUES ('backup_at', 'x')"),
    "files of the incarnation": _sql("UPDATE meta SET value = '[' WHERE key = 'incarnation_files'"),
    "files nested": _sql(f"UPDATE meta SET value = '{'[' * 100_000}' WHERE key = 'incarnation_files'"),
}


@pytest.mark.parametrize("harm", PASSES.values(), ids=PASSES.keys())
async def test_damage_that_no_token_hangs_on_stops_nothing(
    house: House, harm: Callable[[Path], None]
) -> None:
    """Without its sidecar a store is a copy; everything else is only told."""
    await house.connect()
    await house.close()
    harm(house.folder / "var")

    await house.open()

    assert 200 == (await house.get("/token/acme")).status
    await house.broker.adoption.copied_at()
    await house.broker.adoption.checks()


@pytest.mark.parametrize("written", ["[", '"*"', "5", "[" * 100_000, b"\xff"], ids=lambda one: str(one)[:3])
async def test_damaged_caller_has_no_rights(house: House, written: object) -> None:
    """It is told what is wrong as a refusal, and the others are seen and served."""
    await house.connect()
    other = await house.caller(name="other")
    await house.close()
    with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as store, store:
        store.execute("UPDATE callers SET accounts = ? WHERE name = 'service'", (written,))

    await house.open()

    assert [403, 200] == [(await house.get("/token/acme", key=key)).status for key in (house.key, other)]
    assert 2 == len(await house.broker.context.stores.callers.callers())


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("events", "at", "'none'"),
        ("events", "id", "x'ff'"),
        ("events", "generation", "-1"),
        ("events", "detail", "CAST(x'ff' AS TEXT)"),
        ("event_ids", "last", "0"),
        ("event_ids", "last", "'none'"),
        ("event_ids", "purged", "9e999"),
        ("spares", "sealed", "CAST(x'ff' AS TEXT)"),
        ("callers", "name", "CAST(x'ff' AS TEXT)"),
        ("callers", "created_at", "9e999"),
        ("caller_keys", "hash", "CAST(x'ff' AS TEXT)"),
        ("caller_keys", "expires_at", "'none'"),
    ],
)
async def test_damaged_row_beside_the_accounts_hurts_itself_alone(
    house: House, table: str, column: str, value: str
) -> None:
    """Lists, the check and the metrics are answered, and changes go on to be told."""
    await house.connect()
    admin = await house.caller(permissions=("admin",), name="admin")
    await house.caller(name="other")
    await house.close()
    with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as store, store:
        store.execute(
            "INSERT INTO spares SELECT 'one', name, epoch, generation, sealed_refresh, 0, 0 FROM accounts"
        )
        store.execute(f"UPDATE {table} SET {column} = {value} WHERE rowid = (SELECT MAX(rowid) FROM {table})")
    await house.open()

    async with commands_at(house):
        pages = [await as_operator(house, page) for page in ("accounts", "events", "callers", "check")]
    changed = await house.post("/accounts/acme/freeze")
    statuses = [(await house.get("/metrics", key=admin)).status, (await house.get("/token/acme")).status]

    assert "other" in pages[2] or (table, column) == ("callers", "name")
    assert [200, 200, 200] == [changed.status, *statuses]
    assert EventKind.FROZEN in [kind for kind, _ in await _events(house)]


@pytest.mark.parametrize("value", ["'\u00fc'", "5", "x'ff'", "CAST(x'ff' AS TEXT)"])
async def test_damaged_hash_of_a_key_refuses_that_key_alone(house: House, value: str) -> None:
    """Its caller is answered 401, as with any unknown key, and the others are served."""
    await house.connect()
    other = await house.caller(name="other")
    with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as store, store:
        store.execute(f"UPDATE caller_keys SET hash = {value} WHERE caller = 'service'")

    answers = [(await house.get("/token/acme", key=key)).status for key in (house.key, other)]

    assert [401, 200] == answers


@pytest.mark.parametrize("column", ["kid", "wrapped", "master_id", "created_at"])
async def test_keys_damaged_while_running_are_a_line_of_the_check(house: House, column: str) -> None:
    """The running broker has its keys in memory, so tokens are served; a restart would be refused."""
    await house.connect()
    async with commands_at(house):
        with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as store, store:
            store.execute(f"UPDATE keys SET {column} = x'ff' WHERE purpose = 'index'")
        page = await as_operator(house, "check")

    assert "the keys in the store are damaged" in page
    assert "restore a backup" in page
    assert 200 == (await house.get("/token/acme")).status
