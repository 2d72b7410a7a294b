"""What tests run inside the machine: an operator who connects an account, and services that ask without a pause."""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from broker.sandbox import visitor

ADMIN = "/run/token-broker/admin.sock"
HOST, PORT = "127.0.0.1", 8080
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


async def ask(key: str, path: str, socket: str | None) -> dict[str, Any]:
    """One GET, over TCP or a Unix socket."""
    connector = aiohttp.UnixConnector(socket) if socket else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession(f"http://{HOST}:{PORT}", connector=connector) as session,
        session.get(path, headers=headers) as answer,
    ):
        identity = answer.headers.get("X-Request-Id")
        return {"status": answer.status, "id": identity, "body": await answer.json(content_type=None)}


async def load(key: str, account: str) -> dict[str, Any]:
    """Ask until standard input ends; how often, and what went wrong."""
    outcomes: Counter[str] = Counter()
    stop = asyncio.Event()
    slowest = 0.0

    async def repeat(once: Callable[[], Awaitable[int]], name: str) -> None:
        nonlocal slowest
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            began = loop.time()
            try:
                outcomes[f"{name} {await once()}"] += 1
            except (aiohttp.ClientError, OSError, EOFError, TimeoutError) as exc:
                outcomes[f"{name} {type(exc).__name__}: {exc}"] += 1
            slowest = max(slowest, loop.time() - began)
            await asyncio.sleep(PAUSE)

    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(f"http://{HOST}:{PORT}", headers=headers) as session,
        asyncio.TaskGroup() as all_,
    ):
        for _ in range(KEPT):
            all_.create_task(repeat(lambda: _kept(session, account), "kept"))
        for _ in range(FRESH):
            all_.create_task(repeat(lambda: _fresh(key, account, random.uniform(0, 0.03)), "fresh"))
        for _ in range(PUNCTUAL):
            all_.create_task(repeat(lambda: _fresh(key, account, 0), "punctual"))
        await asyncio.to_thread(sys.stdin.read)
        stop.set()
    return {"outcomes": outcomes, "slowest": round(slowest, 3)}


async def _kept(session: aiohttp.ClientSession, account: str) -> int:
    """aiohttp repeats a GET, once, where a kept connection turns out to be closed, as RFC 9112 9.3.1 allows."""
    async with session.get(f"/token/{account}") as answer:
        await answer.read()
        return answer.status


async def _fresh(key: str, account: str, dawdle: float) -> int:
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
        return int(answer.split(b" ", 2)[1])
    finally:
        writer.close()


def main() -> None:
    """`connect ACCOUNT`, `ask KEY PATH [--socket PATH]`, `load KEY ACCOUNT`: prints JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["connect", "ask", "load"])
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--socket")
    asked = parser.parse_args()
    match asked.what:
        case "connect":
            result = asyncio.run(connect(*asked.arguments))
        case "ask":
            key, path = asked.arguments
            result = asyncio.run(ask(key, path, asked.socket))
        case _:
            result = asyncio.run(load(*asked.arguments))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
