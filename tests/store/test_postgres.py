"""What only PostgreSQL has to promise: one start at a time, durable commits, notifications, errors by their kind."""

import asyncio
import os
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.encryption.keyring import Master, Purpose
from broker.errors import InvalidRequest, StartRefused, StorageUnavailable
from broker.model import Reason, Ref, Secret
from broker.store import Stores
from broker.store.database import Transaction
from broker.store.migrate import migrate
from broker.store.postgres import PostgresDatabase
from tests.missing import needs
from tests.ports import free_port
from tests.postgres import needs_postgres, new_database
from tests.store.rows import FIRST, connect, install, intent, plain_stores
from tests.until import moment

pytestmark = pytest.mark.slow


@pytest.fixture(name="name")
async def _name() -> str:
    """A database without a table."""
    return await needs_postgres().new()


def address(name: str, user: str = "broker") -> Secret:
    return Secret(needs_postgres().url(name, user))


async def test_brokers_that_start_at_once_agree(name: str) -> None:
    """On one schema and one set of keys, on a database that nobody has used."""

    async def start(replica: str) -> bool:
        database = await PostgresDatabase.open(address(name), replica=replica)
        async with database.starting():
            await migrate(database)
            key = Master(b"m" * 32).wrap(
                b"k" * 32, kid=f"{replica:0>16}", purpose=Purpose.DATA, created_at=1.0
            )
            first = await plain_stores(database).keys.add_first_keys([key])
        await database.close()
        return first

    firsts = await asyncio.gather(*[start(replica) for replica in "abc"])

    assert [False, False, True] == sorted(firsts)


async def test_database_that_forgets_commits_is_refused(name: str) -> None:
    """Before anything is renewed that could be lost."""
    await needs_postgres().run(f"ALTER DATABASE {name} SET synchronous_commit = off")

    with pytest.raises(StartRefused, match="synchronous_commit is off"):
        await PostgresDatabase.open(address(name), replica="a")


@pytest.mark.parametrize(
    "url",
    ["postgresql://broker@127.0.0.1:1/x", "postgresql://broker@[/x", "postgresql://broker@127.0.0.1:x/y"],
)
async def test_database_that_is_not_there_is_told_in_one_line(url: str) -> None:
    """Without the address, which may hold a password."""
    with pytest.raises(StartRefused) as refused:
        await PostgresDatabase.open(Secret(url.replace("broker@", "broker:canary-1f@")), replica="a")

    assert "canary-1f" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_database_of_another_encoding_is_refused() -> None:
    """It could not hold what people are called."""
    server = needs_postgres()
    await server.run("DROP DATABASE IF EXISTS latin")
    await server.run("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")

    with pytest.raises(StartRefused, match="encoded in LATIN1"):
        await PostgresDatabase.open(address("latin"), replica="a")


async def test_older_program_goes_on_beside_a_newer_one() -> None:
    """While brokers are replaced one by one, an old one may have to start again."""
    async with new_database(needs_postgres()) as database:
        await database.write(lambda one: one.execute("INSERT INTO schema_version (version) VALUES (9999)"))
        try:
            found = await migrate(database)
        finally:
            await database.write(lambda one: one.execute("DELETE FROM schema_version WHERE version = 9999"))

    assert 9999 == found


async def test_names_are_ordered_byte_by_byte() -> None:
    """As SQLite does, whatever language the server speaks: pages must neither skip nor repeat anybody."""
    async with new_database(needs_postgres()) as database:
        for key in ("a-b", "aB", "ab", "a_b", "Z"):
            await plain_stores(database).keys.set_meta(key, "x")

        rows = await database.read("SELECT key FROM meta ORDER BY key")

    assert ["Z", "a-b", "aB", "a_b", "ab"] == [key for (key,) in rows]


async def test_character_that_cannot_be_stored_is_the_callers_mistake() -> None:
    """PostgreSQL knows no NUL in texts."""
    async with new_database(needs_postgres()) as database:
        stores = plain_stores(database)
        await connect(stores)

        with pytest.raises(InvalidRequest, match="NUL"):
            await stores.accounts.relabel("acme", label="a\0b", subject=None)


async def test_transactions_in_each_others_way_are_run_again() -> None:
    """The database undoes one of the two; its caller never hears of it."""
    async with new_database(needs_postgres()) as database:
        stores = plain_stores(database)
        both = asyncio.Barrier(2)
        runs = 0

        async def cross(first: str, second: str) -> None:
            async def work(transaction: Transaction) -> None:
                nonlocal runs
                runs += 1
                sql = "UPDATE accounts SET label = 'x' WHERE name = $1"
                await transaction.execute(sql, first)
                if runs <= 2:
                    await both.wait()
                await transaction.execute(sql, second)

            await database.write(work)

        for name in ("a", "b"):
            await connect(stores, name)
        await asyncio.gather(cross("a", "b"), cross("b", "a"))

        assert runs >= 3
        assert ["x", "x"] == [row[0] for row in await database.read("SELECT label FROM accounts")]


async def test_other_brokers_hear_of_a_change_once_it_is_durable() -> None:
    """And not of what was undone; one's own is not heard twice."""
    server = needs_postgres()
    async with new_database(server) as one:
        [(name,)] = await one.read("SELECT current_database()")
        other = await PostgresDatabase.open(address(str(name)), replica="b")
        heard: asyncio.Queue[str] = asyncio.Queue()
        own: list[str] = []
        one.changes.listen(own.append)
        other.changes.listen(heard.put_nowait)
        stores = plain_stores(one)

        await connect(stores)
        await stores.accounts.begin(Ref("acme", 1, 9), intent())
        await stores.accounts.freeze("acme", Reason.OPERATOR, 1.0)
        async with asyncio.timeout(60):
            first, second = await heard.get(), await heard.get()
        await other.close()

        assert ("acme", "acme", True) == (first, second, heard.empty())
        assert ["acme"] * 2 == own


async def test_line_that_is_cut_comes_back_and_says_so() -> None:
    """Whoever remembered anything forgets it; meanwhile nothing waits for a server that is gone."""
    server = needs_postgres()
    async with new_database(server) as database:
        turns = asyncio.Queue[bool]()
        database.changes.listen(lambda _: None, lambda: turns.put_nowait(True))
        missed: list[bool] = []
        database.turned = missed.append
        sql = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%'"
        )
        [(name,)] = await database.read("SELECT current_database()")
        await server.fetch(f"{sql} AND datname = $1", "postgres", name)
        async with asyncio.timeout(60):
            await turns.get()

        assert [False, True] == missed
        assert (True, True) == (database.line.is_named, database.line.hears)


async def test_write_to_a_lost_database_fails_at_once() -> None:
    """And what was open is undone."""
    async with new_database(needs_postgres()) as database:
        stores = plain_stores(database)
        await connect(stores)
        [(pid,)] = await database.read("SELECT pg_backend_pid()")

        async def work(transaction: Transaction) -> None:
            await transaction.execute("UPDATE accounts SET label = 'half'")
            [(mine,)] = await transaction.fetch("SELECT pg_backend_pid()")
            await needs_postgres().fetch("SELECT pg_terminate_backend($1)", "postgres", mine)
            await transaction.execute("UPDATE accounts SET label = 'whole'")

        with pytest.raises(StorageUnavailable):
            await database.write(work)
        row = await stores.accounts.get("acme")

        assert pid
        assert row is not None
        assert row.label is None


@pytest.mark.parametrize("turns", range(8))
async def test_statement_that_is_about_to_begin_fails_as_all_do(name: str, turns: int) -> None:
    """The server is found lost at that moment: an outage, no fault of the program."""
    database = await PostgresDatabase.open(address(name), replica="a")
    await database.read("SELECT 1")
    ends = [asyncio.create_task(database.read("SELECT 2")) for _ in range(30)]
    for _ in range(turns):
        await asyncio.sleep(0)

    database.line.changed(False)
    ended = await asyncio.gather(*ends, return_exceptions=True)

    assert set() == {type(end) for end in ended} - {list, StorageUnavailable}
    await database.close()


async def test_due_accounts_are_shared_out() -> None:
    """Two that ask at once get different ones, each once."""
    async with new_database(needs_postgres()) as database:
        stores = plain_stores(database)
        for number in range(20):
            await connect(stores, f"a{number:02}", next_at=float(number))

        batches = await asyncio.gather(*[stores.accounts.due(50, 5, claim_until=99.0) for _ in range(4)])

        claimed = [one.name for batch in batches for one in batch]
        assert len(claimed) == len(set(claimed))
        assert 99.0 == (await database.read("SELECT MAX(next_at) FROM accounts"))[0][0]


async def test_held_grants_are_shared_out() -> None:
    """An identity is asked for by one broker at a time."""
    async with new_database(needs_postgres()) as database:
        stores: Stores = plain_stores(database)
        await stores.installs.begin_install(install())
        await database.write(
            lambda one: one.execute(
                'UPDATE installs SET grant_meta = \'["Bearer", "", 1.0, 2.0]\', next_at = 5.0'
            )
        )

        batches = await asyncio.gather(
            *[stores.installs.held_grants(9.0, 5, claim_until=99.0) for _ in range(4)]
        )

        assert 1 == sum(len(batch) for batch in batches)


async def test_lease_is_counted_by_the_servers_clock() -> None:
    """Whatever the brokers' own clocks say: one that is an hour fast takes nothing from anybody."""
    async with new_database(needs_postgres()) as database:
        stores = plain_stores(database)
        await connect(stores)
        await stores.accounts.begin(FIRST, intent("me", at=10.0, until=130.0))

        taken = await stores.accounts.begin(FIRST, intent("other", at=3610.0, until=3730.0))
        [(left,)] = await database.read(
            "SELECT lease_until - EXTRACT(EPOCH FROM clock_timestamp()) FROM accounts"
        )

        assert not taken
        assert 110 < left <= 120


@asynccontextmanager
async def pooler(mode: str, folder: Path) -> AsyncIterator[int]:
    """PgBouncer with its usual settings before the server; the port."""
    program = needs("pgbouncer")
    port, server = free_port(), needs_postgres()
    folder.chmod(0o755)
    ini = folder / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=broker\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\n"
    )
    user = "nobody" if os.geteuid() == 0 else None
    with subprocess.Popen([program, "-q", str(ini)], stderr=subprocess.DEVNULL, user=user) as running:
        try:
            while running.poll() is None and not _listens(port):
                await moment()
            yield port
        finally:
            running.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_pooler_in_session_mode_is_as_good_as_the_server(name: str) -> None:
    """No setting comes with the connection, which it would refuse; all are made afterwards."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        async with pooler("session", Path(folder)) as port:
            url = f"postgresql://broker@127.0.0.1:{port}/{name}?application_name=mine&statement_timeout=9s"
            database = await PostgresDatabase.open(Secret(url), replica="a")
            await migrate(database)
            shown = [
                (await database.read(f"SHOW {setting}"))[0][0]
                for setting in (
                    "application_name",
                    "statement_timeout",
                    "idle_in_transaction_session_timeout",
                )
            ]
            await database.close()

    assert ["mine", "9s", "15s"] == shown


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_pooler_that_shares_sessions_is_refused(name: str, mode: str) -> None:
    """Locks and notifications would be lost in it; and at the second try as well."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        async with pooler(mode, Path(folder)) as port:
            for _ in range(2):
                url = Secret(f"postgresql://broker@127.0.0.1:{port}/{name}")
                with pytest.raises(StartRefused, match="pool_mode = session, or connect directly"):
                    await PostgresDatabase.open(url, replica="a")

    database = await PostgresDatabase.open(address(name), replica="a")
    await database.close()
