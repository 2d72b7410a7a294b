"""What commands do with the store themselves where no broker runs: open it under its lock, renew nothing."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.admin.keys import KeyService, step_json
from broker.admin.routes import operator
from broker.app.databases import open_alone
from broker.app.opening import open_context
from broker.app.rooms import build_keys, build_spools, spool_of
from broker.clock import SystemClock
from broker.config import ConfigError, load
from broker.config.settings import StoreSettings
from broker.errors import BrokerError, StartRefused, StorageUnavailable
from broker.observe import logs
from broker.store.migrate import migrate, move

REQUEST_ID = "command-line"


class KeysAlone:
    """The routes of `/keys`, without a socket."""

    def __init__(
        self, *, desk: KeyService, runner: asyncio.Runner, failed: Callable[[str], Exception]
    ) -> None:
        self._desk, self._runner, self._failed = desk, runner, failed
        self._caller = operator(os.geteuid())

    def ask(self, method: str, target: str, *, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the running broker would answer; raises what `failed` makes of its sentence."""
        try:
            return self._runner.run(self._answer(method, target, body or {}))
        except BrokerError as exc:
            raise self._failed(exc.detail) from None

    async def _answer(self, method: str, target: str, body: Mapping[str, Any]) -> dict[str, Any]:
        match method, target.split("/")[1:]:
            case "GET", ["keys"]:
                return {"keys": await self._desk.keys(self._caller, request_id=REQUEST_ID)}
            case "POST", ["keys"]:
                return await self._desk.new(self._caller, request_id=REQUEST_ID)
            case "POST", ["keys", "rewrap"]:
                step = await self._desk.rewrap(self._caller, body.get("cursor"), request_id=REQUEST_ID)
                return step_json(step)
            case "DELETE", ["keys", kid]:
                return await self._desk.drop(self._caller, kid, request_id=REQUEST_ID)
            case _:
                raise BrokerError(f"{method} {target} needs a running broker")


@contextmanager
def keys_alone(
    config: Path, environ: Mapping[str, str], *, failed: Callable[[str], Exception]
) -> Iterator[KeysAlone]:
    """The keys of the configured store; raises what `failed` makes of a sentence."""
    with asyncio.Runner() as runner:
        closing = AsyncExitStack()
        try:
            desk = runner.run(_open(config, environ, closing))
            yield KeysAlone(desk=desk, runner=runner, failed=failed)
        except ConfigError as exc:
            raise failed(exc.problems[0]) from None
        except StartRefused as exc:
            raise failed(str(exc)) from None
        finally:
            runner.run(closing.aclose())


async def _open(config: Path, environ: Mapping[str, str], closing: AsyncExitStack) -> KeyService:
    settings = load(config, environ=environ)
    logs.configure(replace(settings.log, level="error"))
    context = await open_context(settings, SystemClock(), closing)
    await context.audit.begin()
    return build_keys(context, build_spools(context, ()), tuple).desk


def migrate_alone(store: StoreSettings, *, failed: Callable[[str], Exception]) -> int:
    """Bring the store up to date; the schema's number. Raises what `failed` makes of a sentence."""

    async def bring_up_to_date() -> int:
        async with AsyncExitStack() as closing:
            database = (await open_alone(store, closing)).database
            async with database.starting():
                return await migrate(database)

    if store.postgres is None and not store.path.exists():
        raise failed(f"There is no store {store.path}; `broker serve` makes one.")
    try:
        return asyncio.run(bring_up_to_date())
    except (StartRefused, StorageUnavailable) as exc:
        raise failed(str(exc)) from None


def copy_alone(
    source: Path, store: StoreSettings, *, failed: Callable[[str], Exception]
) -> Mapping[str, int]:
    """Move the SQLite store `source` to the configured PostgreSQL; rows by table. Raises what `failed` makes of a
    sentence."""
    if store.postgres is None:
        raise failed("store.url names no PostgreSQL database; a copy goes from SQLite to there")
    if not source.exists():
        raise failed(f"There is no store {source}.")
    if any(spool_of(source).glob("*")):
        raise failed(
            f"token sets wait in {spool_of(source)}; start the broker on {source} once, it stores them"
        )
    try:
        return asyncio.run(_copy(source, store))
    except (StartRefused, StorageUnavailable) as exc:
        raise failed(str(exc)) from None


async def _copy(source: Path, store: StoreSettings) -> Mapping[str, int]:
    async with AsyncExitStack() as closing:
        # Its lock keeps a broker from starting on it, and this from starting beside one.
        old = await open_alone(replace(store, path=source, postgres=None), closing)
        new = await open_alone(store, closing)
        async with new.database.starting():
            await migrate(old.database)
            await migrate(new.database)
            is_copy = await old.ownership.is_copy()
            counts = await move(old.database, new.database, where=await new.identity())
            if not is_copy:
                await new.ownership.begin()
        return counts
