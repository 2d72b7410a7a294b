"""Adds, lists, rotates and removes the callers that have keys in the store."""

import secrets
from collections.abc import Iterable
from dataclasses import replace

from broker import oauth
from broker.callers.authentication import KeyAuthenticator, key_hash, key_text
from broker.callers.authorization import Authorizer
from broker.callers.configured import ConfiguredCallers
from broker.clock import Clock
from broker.errors import Conflict, InvalidRequest, NotFound, StorageUnavailable
from broker.http.bodies import rfc3339
from broker.model import Caller, CallerKey, CallerRecord, Permission, Secret, is_caller_name, is_glob
from broker.store.callers import CallerStore

ROTATION_OVERLAP = 24 * 3600.0
MOST_LIFE = 3660 * 86400.0


class CallerService:
    """The use cases of `broker callers`. They need the permission `admin`."""

    def __init__(
        self,
        *,
        store: CallerStore,
        keys: KeyAuthenticator,
        configured: ConfiguredCallers,
        authorizer: Authorizer,
        clock: Clock,
    ) -> None:
        self._store, self._keys, self._configured = store, keys, configured
        self._authorizer, self._clock = authorizer, clock

    async def callers(self, caller: Caller, *, request_id: str) -> list[CallerRecord]:
        """Return the callers of the configuration and of the store, sorted by name."""
        await self._authorizer.require(
            caller, Permission.ADMIN, None, request_id=request_id, action="callers.list", reads=True
        )
        await self.flush_uses()
        stored = [
            replace(record, is_overridden=self._configured.has(record.name))
            for record in await self._store.callers()
        ]
        named = self._configured.records(await self._store.caller_uses())
        return sorted([*named, *stored], key=lambda record: (record.name, record.is_overridden))

    async def flush_uses(self) -> None:
        """Write the last-used timestamps of callers and keys to the store, or keep them if that fails."""
        for users, touch in (
            (self._keys, self._store.touch_keys),
            (self._configured, self._store.touch_callers),
        ):
            uses, users.uses = users.uses, {}
            try:
                await touch(uses)
            except StorageUnavailable:
                users.uses = uses | users.uses

    async def add(
        self,
        caller: Caller,
        *,
        name: str,
        accounts: Iterable[str],
        permissions: Iterable[str],
        expires_in: float | None,
        request_id: str,
    ) -> tuple[CallerRecord, Secret]:
        """Add a caller and return it with its key, which is shown only now; raises InvalidRequest, Conflict."""
        await self._authorizer.require(caller, Permission.ADMIN, None, request_id=request_id)
        if not is_caller_name(name):
            raise InvalidRequest("a caller's name is lower-case letters, digits and . _ -, at most 64")
        globs = tuple(accounts)
        if not globs or not all(is_glob(glob) for glob in globs):
            raise InvalidRequest("accounts are one or more globs over account names, as in 'kit-*'")
        try:
            allowed = frozenset(Permission(word) for word in permissions) or frozenset({Permission.TOKEN})
        except ValueError:
            raise InvalidRequest(f"permissions are {', '.join(Permission)}") from None
        self._refuse_configured(name, "take another name")
        if expires_in is not None and not 1 <= expires_in <= MOST_LIFE:
            raise InvalidRequest(
                "expires_in is a number of seconds, ten years at most; without it a key never ends"
            )
        record = CallerRecord(name, globs, allowed, self._clock.now())
        key, text = self._new_key(name, expires_in)
        if not await self._store.add_caller(record, key):
            raise Conflict(f"there is a caller {record.name} already; rotate its key, or remove it first")
        await self._authorizer.note(caller, "callers.add", None, record.name, request_id=request_id)
        return record, text

    async def rotate(
        self, caller: Caller, name: str, *, now: bool = False, request_id: str
    ) -> tuple[CallerRecord, Secret]:
        """Add a second key with the lifetime of the first, which works for 24 more hours.

        With `now` the older of two keys ends immediately; without it this raises Conflict if two keys work.
        """
        await self._authorizer.require(caller, Permission.ADMIN, None, request_id=request_id)
        self._refuse_configured(name, "change it there and reload")
        record = await self._find(name)
        working = [key for key in record.keys if key.expires_at is None or key.expires_at > self._clock.now()]
        if len(working) > 1 and not now:
            # A third key would end the older one, which a service may still use.
            oldest = working[0]
            ends = f"ends at {rfc3339(oldest.expires_at)}" if oldest.expires_at else "has no end"
            raise Conflict(
                f"{name} has two keys, and a third would end the older one immediately. That one, {oldest.id}, {ends}."
                f" Rotate after that, or end it with: broker callers rotate {name} --now"
            )
        newest = record.keys[-1] if record.keys else None
        life = newest.expires_at - newest.created_at if newest and newest.expires_at else None
        key, text = self._new_key(record.name, life)
        await self._store.add_key(key, expire_others_at=self._clock.now() + ROTATION_OVERLAP)
        self._keys.forget()
        await self._authorizer.note(caller, "callers.rotate", None, record.name, request_id=request_id)
        return await self._find(name), text

    async def remove(self, caller: Caller, name: str, *, request_id: str) -> None:
        """Remove a caller and its keys, which stop working; raises NotFound, Conflict."""
        await self._authorizer.require(caller, Permission.ADMIN, None, request_id=request_id)
        if not await self._store.remove_caller(name):
            self._refuse_configured(name, "delete it there and reload")
            raise NotFound(f"There is no caller {name[:64]!r}.")
        self._keys.forget()
        await self._authorizer.note(caller, "callers.remove", None, name, request_id=request_id)

    def _refuse_configured(self, name: str, todo: str) -> None:
        if self._configured.has(name):
            raise Conflict(f"[callers.{name}] is in the configuration; {todo}")

    async def _find(self, name: str) -> CallerRecord:
        for record in await self._store.callers():
            if record.name == name:
                return record
        raise NotFound(f"There is no caller {name[:64]!r}.")

    def _new_key(self, caller: str, life: float | None) -> tuple[CallerKey, Secret]:
        now = self._clock.now()
        key_id = secrets.token_hex(6)
        text = key_text(key_id, oauth.new_secret())
        return CallerKey(key_id, caller, key_hash(text), now, now + life if life else None), text
