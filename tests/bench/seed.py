"""Fills a new store with accounts and one caller, fast; uses nothing but the broker that it finds on its path.

Run by its path, with a config.toml; standard input is `{"groups": […]}`, each as `Group` in stand.py.
An account is called `<prefix><number>`. Prints the caller's key.
"""

import asyncio
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker.app import open_broker
from broker.callers.authentication import key_hash, key_text
from broker.clock import SystemClock
from broker.config import load
from broker.encryption.tokens import TokenEncryption
from broker.model import Account, CallerKey, CallerRecord, Permission, Ref, Secret
from broker.oauth import new_secret
from broker.store.rows import COLUMNS, WIDTH, to_values

INSERT = f"INSERT INTO accounts ({COLUMNS}, next_at) VALUES ({', '.join('?' * (WIDTH + 1))})"


async def _fill(config: Path, groups: list[dict[str, Any]]) -> str:
    settings, clock = load(config, environ={}), SystemClock()
    # A store that no broker has begun, but with accounts, is taken for a copy.
    async with open_broker(settings) as broker:
        base = broker.context
        key_id = "0123456789ab"
        text = key_text(key_id, new_secret())
        record = CallerRecord(
            "bench", ("*",), frozenset({Permission.TOKEN, Permission.REFRESH}), created_at=clock.now()
        )
        await base.stores.callers.add_caller(
            record, CallerKey(key_id, "bench", key_hash(text), clock.now(), expires_at=None)
        )
    connection = sqlite3.connect(settings.store.path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    for group in groups:
        connection.executemany(INSERT, _rows(base.encryption, group, clock.now()))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return text.reveal()


def _rows(encryption: TokenEncryption, group: dict[str, Any], now: float) -> Iterator[tuple[object, ...]]:
    for number in range(group["count"]):
        ref = Ref(f"{group['prefix']}{number}", 1, 1)
        left = group["left"] + group["spread"] * number / group["count"]
        access, refresh = encryption.encrypt(
            ref, Secret(f"access-{number:08d}-" + "a" * 40), Secret("r" * 60)
        )
        account = Account(
            name=ref.name,
            provider=group["provider"],
            epoch=1,
            generation=1,
            client_id="bench",
            sealed_access=access,
            sealed_refresh=refresh,
            token_type="Bearer",
            scope="public",
            issued_at=now + left - group["life"],
            expires_at=now + left,
            refreshed_at=now + left - group["life"],
            created_at=now,
            last_used_at=now,
        )
        yield *to_values(account), account.expires_at - min(900.0, account.life / 3)


if __name__ == "__main__":
    print(asyncio.run(_fill(Path(sys.argv[1]), json.load(sys.stdin)["groups"])))
