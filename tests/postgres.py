"""A PostgreSQL server of the tests' own: started once per run, a fresh database for whoever asks."""

import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from broker.model import Secret
from broker.store.migrate import migrate
from broker.store.postgres import PostgresDatabase
from tests.missing import missing
from tests.ports import free_port
from tests.until import pause

PLACES = (Path("/usr/lib/postgresql"), Path("/usr/pgsql"), Path("/opt/homebrew/opt"))
SMALL = {
    "shared_buffers": "16MB",
    "max_connections": "150",
    "max_wal_size": "64MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}
EMPTY = """
DO $$ DECLARE one RECORD; BEGIN
  FOR one IN SELECT tablename FROM pg_tables
              WHERE schemaname = 'public' AND tablename NOT IN ('schema_version', 'event_ids') LOOP
    EXECUTE 'DELETE FROM ' || one.tablename;
  END LOOP;
  UPDATE event_ids SET last = 0, purged = 0;
END $$"""
_numbers = itertools.count()


@dataclass(slots=True)
class Server:
    """One server, in a folder that goes with it."""

    programs: Path
    folder: Path
    port: int
    clean: list[str] = field(default_factory=list)
    running: subprocess.Popen[bytes] | None = field(default=None)

    def url(self, database: str = "postgres", user: str = "broker", port: int | None = None) -> str:
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = [word for key, value in SMALL.items() for word in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.running = subprocess.Popen(
                [
                    *(*_unprivileged(), str(self.programs / "postgres"), "-D", str(self.folder / "data")),
                    *("-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder), *options),
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self.folder,
            )
        while not self._is_ready():
            assert self.running.poll() is None, (self.folder / "log").read_text()
            pause()

    def _is_ready(self) -> bool:
        """What the server itself writes into its file, as pg_ctl reads it; a crashed one has left its own."""
        assert self.running is not None
        with suppress(OSError, ValueError):
            pid, *_, state = (self.folder / "data" / "postmaster.pid").read_text().splitlines()[:8]
            return (pid, state.strip()) == (str(self.running.pid), "ready")
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: tidily; SIGQUIT: at once; SIGKILL: a crash, of which its children hear as well."""
        if self.running is None:
            return
        if how is signal.SIGKILL:
            self.signal_all(how)
        else:
            self.running.send_signal(how)
        self.running.wait()
        self.running = None

    def signal_all(self, number: signal.Signals) -> None:
        """To the server and each of its processes."""
        assert self.running is not None
        for pid in (self.running.pid, *self._children()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _children(self) -> list[int]:
        assert self.running is not None
        pid = self.running.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def crash(self) -> None:
        """kill -9 of everything, and an orderly state for the next start."""
        assert self.running is not None
        children = self._children()
        self.stop(signal.SIGKILL)
        # Their shared memory goes with the last of them.
        while any(_is_there(pid) for pid in children):
            pause()

    async def run(self, sql: str, database: str = "postgres") -> str:
        connection = await asyncpg.connect(self.url(database))
        try:
            return str(await connection.execute(sql))
        finally:
            await connection.close()

    async def fetch(self, sql: str, database: str, *values: object) -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(self.url(database))
        try:
            return [tuple(row) for row in await connection.fetch(sql, *values)]
        finally:
            await connection.close()

    async def new(self) -> str:
        """The name of an empty database."""
        name = f"broker_{next(_numbers)}"
        await self.run(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    async def take(self) -> str:
        """The name of a database with the schema and nothing in it; `give_back` it."""
        if self.clean:
            return self.clean.pop()
        name = await self.new()
        database = await PostgresDatabase.open(Secret(self.url(name)), replica="template")
        await migrate(database)
        await database.close()
        return name

    async def give_back(self, name: str) -> None:
        # Making and dropping databases is a matter of seconds; deleting the few rows of a test is not.
        await self.run(EMPTY, name)
        self.clean.append(name)


def _is_there(pid: int) -> bool:
    """Whether the process runs; one that has ended may not have been reaped."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def needs_postgres() -> Server:
    """The run's server; a skip with one line where there is no PostgreSQL, a failure on CI."""
    programs = _programs()
    if programs is None:
        missing("PostgreSQL is missing; type: sudo apt-get install postgresql")
    return _server(programs)


@contextmanager
def another_server() -> Iterator[Server]:
    """One that may be crashed."""
    server = new_server(needs_postgres().programs)
    try:
        yield server
    finally:
        end_server(server)


@asynccontextmanager
async def new_database(server: Server) -> AsyncIterator[PostgresDatabase]:
    """A database with the schema, opened by a replica called `a`."""
    name = await server.take()
    database = await PostgresDatabase.open(Secret(server.url(name)), replica="a")
    try:
        yield database
    finally:
        await database.close()
        await server.give_back(name)


def _programs() -> Path | None:
    found = [path for place in PLACES if place.is_dir() for path in place.glob("*/bin/postgres")]
    named = shutil.which("postgres")
    if named and not found:
        found = [Path(named).resolve()]
    return max(found).parent if found else None


@functools.cache
def _server(programs: Path) -> Server:
    return new_server(programs)


def new_server(programs: Path) -> Server:
    """Another one; ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="broker-postgres-", dir="/tmp"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    made = subprocess.run(
        [
            *(*_unprivileged(), str(programs / "initdb"), "-D", str(folder / "data"), "-U", "broker"),
            *("-A", "trust", "-E", "UTF8", "--no-sync", "--no-locale"),
        ],
        capture_output=True,
        check=False,
        cwd=folder,
    )
    assert made.returncode == 0, made.stderr
    server = Server(programs, folder, free_port())
    server.start()
    _ended_with_us.append(server)
    return server


_ended_with_us: list[Server] = []


def end_servers() -> None:
    """At the end of the run."""
    while _ended_with_us:
        end_server(_ended_with_us[-1])


def end_server(server: Server) -> None:
    _ended_with_us.remove(server)
    # Its data goes with it, so it need not tidy up.
    server.stop(signal.SIGQUIT)
    shutil.rmtree(server.folder, ignore_errors=True)


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root; and it ends when the tests are killed."""
    whom = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *whom, "--pdeathsig=INT"]
