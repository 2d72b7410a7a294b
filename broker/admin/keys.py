"""Lists, adds and retires data keys for operators, and re-encrypts records with the active key."""

from collections.abc import Mapping
from typing import Any

import structlog
from aiohttp import web

from broker.context import Context
from broker.encryption.keyring import Purpose, WrappedKey
from broker.errors import Conflict, NotFound
from broker.http import schema
from broker.http.bodies import rfc3339
from broker.http.edge import CALLER, REQUEST_ID, answer
from broker.http.operations import Operation, check_query, read_object
from broker.keys import ByKey, Census, Elsewhere, Rewrapper
from broker.model import Caller, Permission
from broker.store.keys import UNKNOWN

RETIRED_FOR = 400 * 86400.0

log = structlog.get_logger()


class KeyService:
    """The use cases of `broker keys` and their routes. They never return a key itself."""

    def __init__(self, context: Context, elsewhere: Elsewhere) -> None:
        """`elsewhere` returns the encrypted records outside the store, in the spool and in memory."""
        self._context, records = context, context.stores.records
        self.census = Census(records=records, elsewhere=elsewhere, keyring=context.keyring)
        self._rewrapper = Rewrapper(records=records, keyring=context.keyring, clock=context.clock)

    async def keys(self, caller: Caller, *, request_id: str) -> list[dict[str, Any]]:
        """Return all keys, each with the number of records that are encrypted with it."""
        await self._context.authorizer.require_look(caller, "keys.list", request_id=request_id)
        counts = await self.census.take()
        return [key_json(key, counts) for key in await self._context.stores.keys.keys()]

    async def new(self, caller: Caller, *, request_id: str) -> dict[str, Any]:
        """Add a data key and encrypt everything with it from now on."""
        await self._context.authorizer.require(caller, Permission.ADMIN, None, request_id=request_id)
        key = await self._context.ring.add_key()
        await self._context.authorizer.note(caller, "keys.new", None, key.kid, request_id=request_id)
        return key_json(key, {})

    async def rewrap(self, caller: Caller, cursor: str | None, *, request_id: str) -> dict[str, Any]:
        """Re-encrypt a batch of records with the active key; `cursor` is that of the step before, None at first."""
        await self._context.authorizer.require(caller, Permission.ADMIN, None, request_id=request_id)
        step = await self._rewrapper.step(cursor)
        await self._context.authorizer.note(
            caller, "keys.rewrap", None, f"{step.reencrypted} re-encrypted", request_id=request_id
        )
        return {
            "looked_at": step.looked_at,
            "resealed": step.reencrypted,
            "unreadable": list(step.unreadable),
            "cursor": step.cursor,
        }

    async def drop(self, caller: Caller, kid: str, *, request_id: str) -> dict[str, Any]:
        """Retire a data key that encrypts no record any more; raises NotFound, Conflict."""
        await self._context.authorizer.require(caller, Permission.ADMIN, None, request_id=request_id)
        key = next((one for one in await self._context.stores.keys.keys() if one.kid == kid), None)
        if key is None:
            raise NotFound(f"There is no key {kid[:32]!r}. List the keys with: broker keys list")
        if key.purpose is Purpose.INDEX:
            raise Conflict(f"key {kid} makes keyed hashes, which must not change; it is never removed")
        if key.retired_at is not None:
            raise Conflict(f"key {kid} was removed already")
        if key.active:
            raise Conflict(f"key {kid} is the active one; make another first: broker keys add")
        # A key that is not active never becomes active again, so a count of 0 stays true.
        counts = await self.census.take()
        if where := counts.get(kid):
            raise Conflict(
                f"{_counted(where)} still encrypted with key {kid}. `broker keys rewrap` re-encrypts those in the"
                " store; those in the spool go when the store takes them"
            )
        if where := counts.get(UNKNOWN):
            raise Conflict(f"{_counted(where)} encrypted with a key that nobody knows; run `broker check`")
        if not await self._context.stores.keys.retire_key(kid, self._context.clock.now()):
            raise Conflict(f"key {kid} was changed meanwhile; look at it with: broker keys list")
        await self._context.authorizer.note(caller, "keys.drop", None, kid, request_id=request_id)
        log.warning("key.retired", kid=key.kid)
        return next(key_json(one, counts) for one in await self._context.stores.keys.keys() if one.kid == kid)

    async def forget_retired(self, now: float) -> None:
        """Delete the keys that were retired more than 400 days before `now`."""
        await self._context.stores.keys.forget_retired_keys(now - RETIRED_FOR)

    @Operation("GET", "/keys", permission=Permission.ADMIN)
    async def _list(self, request: web.Request) -> web.StreamResponse:
        """List the data keys, each with the number of records that it encrypts; never a key itself."""
        check_query(request)
        return answer({"keys": await self.keys(request[CALLER], request_id=request[REQUEST_ID])})

    @Operation("POST", "/keys", permission=Permission.ADMIN)
    async def _new(self, request: web.Request) -> web.StreamResponse:
        """Add a data key; everything is encrypted with it from now on."""
        await read_object(request)
        return answer(await self.new(request[CALLER], request_id=request[REQUEST_ID]), status=201)

    @Operation(
        "POST",
        "/keys/rewrap",
        permission=Permission.ADMIN,
        body=schema.json_body(
            {"cursor": schema.TEXT_OR_NULL | {"description": "The `cursor` of the answer before"}}
        ),
    )
    async def _rewrap(self, request: web.Request) -> web.StreamResponse:
        """Re-encrypt a batch of records with the active key; the answer's `cursor` is null at the end."""
        body = await read_object(request)
        cursor, request_id = body.get("cursor"), request[REQUEST_ID]
        return answer(await self.rewrap(request[CALLER], cursor, request_id=request_id))

    @Operation("DELETE", "/keys/{kid}", permission=Permission.ADMIN)
    async def _drop(self, request: web.Request) -> web.StreamResponse:
        """Retire a data key that encrypts no record any more."""
        kid = request.match_info["kid"]
        return answer(await self.drop(request[CALLER], kid, request_id=request[REQUEST_ID]))


def key_json(key: WrappedKey, counts: ByKey) -> dict[str, Any]:
    """Return a key as the admin socket shows it."""
    where = counts.get(key.kid, {})
    return {
        "kid": key.kid,
        "purpose": key.purpose,
        "state": key.state,
        "records": sum(where.values()),
        "where": dict(where),
        "master": key.master_id,
        "created_at": rfc3339(key.created_at),
        "retired_at": rfc3339(key.retired_at),
    }


def _counted(where: Mapping[str, int]) -> str:
    """Return `3 in accounts.sealed_access, 1 in spool are`."""
    total = sum(where.values())
    return ", ".join(f"{count} in {place}" for place, count in sorted(where.items())) + (
        " is" if total == 1 else " are"
    )
