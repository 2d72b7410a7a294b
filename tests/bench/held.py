"""What accounts cost that are held in memory: reads so many, prints bytes for each and a full collection's ms.

Run by its path, with a number. Only the broker's own memory of accounts is asked; the store behind it makes rows up.
"""

import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import cast

from broker.encryption.keyring import Keyring
from broker.encryption.tokens import TokenEncryption
from broker.model import Account, Ref, Secret
from broker.store.renewals import RefreshStore
from broker.tokens.cache import TokenCache

KID = "0123456789abcdef"


class _Rows:
    """The reading half of a store."""

    def __init__(self, encryption: TokenEncryption) -> None:
        self._encryption = encryption

    async def get(self, name: str) -> Account:
        ref, now = Ref(name, 1, 1), 1_800_000_000.0 + len(name)
        access, refresh = self._encryption.encrypt(ref, Secret("access-" + name + "a" * 40), Secret("r" * 60))
        provider, client_id, token_type, scope = _texts()
        return Account(
            name=name,
            provider=provider,
            epoch=1,
            generation=1,
            client_id=client_id,
            sealed_access=access,
            sealed_refresh=refresh,
            token_type=token_type,
            scope=scope,
            issued_at=now,
            expires_at=now + 172_800.5,
            refreshed_at=now,
            created_at=now,
        )


def _texts() -> list[str]:
    """As from a database: equal, and yet objects of their own."""
    return ["".join(word) for word in (["ki", "t"], ["ben", "ch"], ["Bea", "rer"], ["pub", "lic"])]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _hold(count: int) -> dict[str, float]:
    encryption = TokenEncryption(Keyring(active=KID, keys={KID: b"k" * 32}, index_key=b"i" * 32))
    cache = TokenCache(cast(RefreshStore, _Rows(encryption)), encryption, limit=count, ahead=900)
    await cache.read("warm")
    gc.collect()
    # As the broker does when it has started: what is imported is not looked at again.
    gc.freeze()
    began = _resident()
    for number in range(count):
        await cache.read(f"account-{number}")
    gc.collect()
    grown = _resident() - began
    pauses = []
    for _ in range(5):
        at = time.perf_counter()
        gc.collect()
        pauses.append(time.perf_counter() - at)
    return {"account_bytes": grown / count, "gc_ms": 1000 * min(pauses)}


if __name__ == "__main__":
    print("ready", flush=True)
    print(json.dumps(asyncio.run(_hold(int(sys.argv[1])))), flush=True)
