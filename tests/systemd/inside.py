"""What tests run inside the machine: people and services that do as they are told, and a load."""

import asyncio
import json
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import aiohttp

from broker.sandbox import visitor
from broker.store.migrate import migrations

ADMIN = "/run/token-broker/admin.sock"
HOST, PORT = "127.0.0.1", 8080
SANDBOX = "http://127.0.0.1:8089"
FRESH, PUNCTUAL, KEPT = 4, 2, 4
"""Clients that connect anew each time and dawdle, that do not dawdle, and that keep their connection."""
PAUSE = 0.01


async def connect(account: str) -> dict[str, Any]:
    """A key for all accounts, and one connected account."""
    connector = aiohttp.UnixConnector(ADMIN)
    async with aiohttp.ClientSession("http://broker", connector=connector, raise_for_status=True) as admin:
        caller = {"name": f"caller-{account}", "accounts": ["*"], "permissions": ["token", "refresh"]}
        async with admin.post("/callers", json=caller) as answer:
            key = (await answer.json())["key"]
        async with admin.post("/installs", json={"provider": "kit", "account": account}) as answer:
            link = (await answer.json())["install_url"]
    visit = await visitor.install(link)
    return {"key": key, "status": visit.status}


async def ask(key: str, method: str, path: str, socket: str | None = None) -> dict[str, Any]:
    """One request, over TCP or a Unix socket."""
    connector = aiohttp.UnixConnector(socket) if socket else None
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(f"http://{HOST}:{PORT}", connector=connector, headers=headers) as session,
        session.request(method, path) as answer,
    ):
        identity = answer.headers.get("X-Request-Id")
        return {"status": answer.status, "id": identity, "body": await answer.json(content_type=None)}


async def sandbox(path: str, body: dict[str, Any] | None = None) -> Any:
    """A switch of the sandbox, or its record."""
    async with aiohttp.ClientSession(SANDBOX, raise_for_status=True) as session:
        method = "GET" if body is None else "POST"
        async with session.request(method, f"/_sandbox/{path}", json=body) as answer:
            return await answer.json()


async def age(store: str) -> dict[str, int]:
    """Take the last migration out of a store that nobody uses, but keep all rows that the schema before it can hold."""
    *older, (newest, _) = migrations().items()
    with closing(sqlite3.connect(store)) as newer, closing(sqlite3.connect(":memory:")) as aged:
        aged.execute("CREATE TABLE schema_version (version BIGINT PRIMARY KEY)")
        for number, sql in older:
            aged.executescript(sql)
            aged.execute("INSERT INTO schema_version VALUES (?)", (number,))
        for table in _tables(aged) - {"schema_version"}:
            columns = sorted(_columns(aged, table) & _columns(newer, table))
            rows = newer.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
            aged.execute(f"DELETE FROM {table}")
            places = ", ".join("?" * len(columns))
            aged.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)
        aged.commit()
        # In place: another file would be taken for a copy.
        aged.backup(newer)
        # Or a root of the test's would own what the broker has to write.
        newer.execute("PRAGMA journal_mode = DELETE")
    return {"was": older[-1][0], "schema": newest}


def _tables(database: sqlite3.Connection) -> set[str]:
    found = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    return {str(name) for (name,) in found if not name.startswith("sqlite_")}


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {str(row[1]) for row in database.execute(f"PRAGMA table_info({table})")}


async def load(key: str, account: str) -> dict[str, Any]:
    """Ask until standard input ends; how often, and what went wrong."""
    outcomes: Counter[str] = Counter()
    stop = asyncio.Event()
    slowest = 0.0

    async def repeat(once: Callable[[], Awaitable[str]], name: str) -> None:
        nonlocal slowest
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            began = loop.time()
            try:
                outcomes[f"{name} {await once()}"] += 1
            except (aiohttp.ClientError, OSError, EOFError) as exc:
                outcomes[f"{name} {type(exc).__name__}: {exc}"] += 1
            slowest = max(slowest, loop.time() - began)
            await asyncio.sleep(PAUSE)

    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(f"http://{HOST}:{PORT}", headers=headers) as session,
        asyncio.TaskGroup() as clients,
    ):
        for _ in range(KEPT):
            clients.create_task(repeat(lambda: _kept(session, account), "kept"))
        for _ in range(FRESH):
            clients.create_task(repeat(lambda: _fresh(key, account, random.uniform(0, 0.03)), "fresh"))
        for _ in range(PUNCTUAL):
            clients.create_task(repeat(lambda: _fresh(key, account, 0), "punctual"))
        await asyncio.to_thread(sys.stdin.read)
        stop.set()
    return {"outcomes": outcomes, "slowest": round(slowest, 3)}


def _said(status: int, body: bytes) -> str:
    """The status, and where it is no token what was wrong."""
    return "200" if status == 200 else f"{status} {json.loads(body).get('code')}"


async def _kept(session: aiohttp.ClientSession, account: str) -> str:
    """aiohttp repeats a GET, once, where a kept connection turns out to be closed, as RFC 9112 9.3.1 allows."""
    async with session.get(f"/token/{account}") as answer:
        return _said(answer.status, await answer.read())


async def _fresh(key: str, account: str, dawdle: float) -> str:
    """A connection of its own; nothing is repeated."""
    reader, writer = await asyncio.open_connection(HOST, PORT)
    try:
        if dawdle:
            await asyncio.sleep(dawdle)
        lines = (
            f"GET /token/{account} HTTP/1.1",
            "Host: broker",
            f"Authorization: Bearer {key}",
            "Connection: close",
        )
        writer.write("\r\n".join((*lines, "", "")).encode())
        async with asyncio.timeout(30):
            answer = await reader.read()
        if not answer:
            raise EOFError("closed without an answer")
        return _said(int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2])
    finally:
        writer.close()


async def obey() -> None:
    """Each line of standard input is a call, as JSON; each answer a line."""
    known: dict[str, Callable[..., Awaitable[Any]]] = {
        "connect": connect,
        "ask": ask,
        "sandbox": sandbox,
        "age": age,
    }
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, *arguments = json.loads(line)
        print(json.dumps(await known[name](*arguments)), flush=True)


def main() -> None:
    """`obey`, or `load KEY ACCOUNT`."""
    match sys.argv[1:]:
        case ["load", key, account]:
            print(json.dumps(asyncio.run(load(key, account))))
        case _:
            asyncio.run(obey())


if __name__ == "__main__":
    main()
