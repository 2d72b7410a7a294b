"""The token request alone: what the broker's renewals are measured against. Nothing is decided, sealed or stored.

Run by its path, with a URL. Each line on standard input is `connections seconds`; the answer is requests a second.
"""

import asyncio
import sys
import time
from urllib.parse import urlencode

import uvloop

from broker.providers.client import Answer, ProviderClient

FORM = urlencode(
    {"grant_type": "refresh_token", "refresh_token": "r" * 60, "client_id": "c", "client_secret": "s"}
).encode()
HEADERS = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


async def _rate(client: ProviderClient, url: str, connections: int, seconds: float) -> float:
    ends_at, count = time.perf_counter() + seconds, 0

    async def ask() -> None:
        nonlocal count
        while time.perf_counter() < ends_at:
            reply = await client.post(
                url, data=FORM, headers=HEADERS, timeout=10, before_send=_nothing, public_only=False
            )
            count += isinstance(reply, Answer)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(connections)))
    return count / (time.perf_counter() - began)


async def _nothing() -> None:
    """Nobody wants to know."""


async def _serve(url: str) -> None:
    client = ProviderClient()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        connections, seconds = line.split()
        print(await _rate(client, url, int(connections), float(seconds)), flush=True)
    await client.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_serve(sys.argv[1]))
