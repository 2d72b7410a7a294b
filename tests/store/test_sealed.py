"""The list of everything sealed is whole: what the schema calls sealed is on it, and nothing else."""

import sqlite3

from broker.store.keys import ENCRYPTED
from broker.store.migrate import migrations

WITHOUT_OUR_KEYS = {"plugin_pairs.sealed_next"}


def test_every_sealed_column_of_the_schema_is_on_the_list() -> None:
    """Whoever adds one adds it there, or rewrap and drop would forget it. What opens with a client's token is apart."""
    connection = sqlite3.connect(":memory:")
    for sql in migrations().values():
        connection.executescript(sql)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    sealed = {
        f"{table}.{column}"
        for table in tables
        for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")
        if column.startswith("sealed")
    }
    connection.close()

    listed = [column.name for column in ENCRYPTED]

    assert sorted(sealed - WITHOUT_OUR_KEYS) == sorted(listed)


def test_rows_are_walked_by_their_key() -> None:
    """The key of each is its table's only one, so that no row is passed by or met twice."""
    connection = sqlite3.connect(":memory:")
    for sql in migrations().values():
        connection.executescript(sql)
    keys = {
        column.name: [
            name
            for _, name, _, _, _, place in connection.execute(f"PRAGMA table_info({column.table})")
            if place
        ]
        for column in ENCRYPTED
    }
    connection.close()

    assert {column.name: [column.key] for column in ENCRYPTED} == keys
