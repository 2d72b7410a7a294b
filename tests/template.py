"""A new store with its schema, made once in each process and then copied: the migrations cost more than most tests."""

from pathlib import Path
from tempfile import TemporaryDirectory

from broker.store.migrate import migrate
from broker.store.sqlite import SqliteDatabase

_made: list[bytes] = []


async def put_store(path: Path) -> None:
    """Put a store at `path` where none lies, as a first start has it after its migrations: empty, without a key."""
    if path.exists():
        return
    if not _made:
        with TemporaryDirectory() as folder:
            database = await SqliteDatabase.open(Path(folder) / "broker.db")
            await migrate(database)
            await database.close()
            _made.append((Path(folder) / "broker.db").read_bytes())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(_made[0])
