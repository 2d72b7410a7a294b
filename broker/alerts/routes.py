"""Streams events to callers and operators: `GET /events`, server-sent events with `Last-Event-ID`."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from broker.callers.authorization import Authorizer, covers, may
from broker.clock import Clock
from broker.errors import InvalidRequest, StorageUnavailable
from broker.http import schema
from broker.http.bodies import event_json
from broker.http.edge import CALLER, REQUEST_ID
from broker.http.operations import Operation, check_query
from broker.http.streams import EventStream, EventStreams, Tell
from broker.model import Caller, Event, Permission, is_account_name
from broker.store.events import EventStore

FRESH_FOR = 0.4
PAGE = 100
LOOK_EVERY = 0.5
KEEP_ALIVE = 15.0
MOST_STREAMS = 600
MOST_OF_ONE = 200
"""Streams of one caller, so that no caller alone takes all of them."""
EXAMPLE = (
    'id: 42\ndata: {"id":42,"at":"2026-11-20T10:15:00Z","event":"renewed","account":"acme","provider":"kit",'
    '"reason":null,"what_to_do":null,"generation":17}\n\n'
)
ID = re.compile(r"\d{1,15}", re.ASCII)


class Feed:
    """Reads events for all streams, and asks the store only once for all of them whether there are new ones."""

    def __init__(self, *, events: EventStore, clock: Clock) -> None:
        self._events, self._clock = events, clock
        self._lock = asyncio.Lock()
        self._last, self._fresh_until = 0, float("-inf")

    async def beginning(self, last_id: int | None) -> tuple[int, bool]:
        """Return the id after which to start, and whether events between it and `last_id` are gone.

        Without `last_id` the stream starts with future events. Raises StorageUnavailable.
        """
        last, purged = await self._events.event_bounds()
        if last_id is None:
            return last, False
        # An id that was never assigned: the store is older than the one the client knew.
        return (last, True) if last_id > last else (max(last_id, purged), last_id < purged)

    async def page(self, after: int, account: str | None) -> tuple[list[Event], int, bool]:
        """Return events after an id, of one account or of all, the next id, and whether there are no more for now.

        Raises StorageUnavailable.
        """
        async with self._lock:
            if self._clock.monotonic() >= self._fresh_until:
                self._last, _ = await self._events.event_bounds()
                self._fresh_until = self._clock.monotonic() + FRESH_FOR
            last = self._last
        if last <= after:
            return [], after, True
        events = await self._events.events(after, PAGE, account)
        newest = events[-1].id if events else 0
        is_full = len(events) == PAGE
        return events, newest if is_full else max(last, newest), not is_full


def may_see(caller: Caller, event: Event) -> bool:
    """Return whether the caller may see an event: those of its accounts, and those about the broker as a whole."""
    if event.account is not None:
        return covers(caller, event.account)
    # An event of a user without an account is only for callers of all accounts.
    return event.subject is None or "*" in caller.accounts


class Streams:
    """Streams of events. Each keeps only one page in memory, also for a slow reader."""

    def __init__(
        self, feed: Feed, clock: Clock, *, still: Callable[[web.Request], Awaitable[Caller]]
    ) -> None:
        self._feed, self._clock = feed, clock
        self._streams = EventStreams(clock, every=LOOK_EVERY, most=MOST_STREAMS, most_of_one=MOST_OF_ONE)
        self.stop = self._streams.stop
        self._still = still
        """Authenticates the request again; raises if its credential has expired or was revoked."""

    async def follow(
        self, request: web.Request, *, last_id: int | None, account: str | None
    ) -> web.StreamResponse:
        """Answer with a stream, until the client leaves, the caller loses its permission, or the broker stops."""

        async def begin() -> tuple[str, Tell]:
            after, has_gap = await self._feed.beginning(last_id)
            first = f"id: {after}\n\n"
            if has_gap:
                # The client has missed events and should read its accounts again.
                gap = {"event": "gap", "after": last_id, "resumed_after": after}
                first = _message(after, "gap", gap)

            async def tell(stream: EventStream) -> bool:
                nonlocal after
                # Stop a search through a long history when the client leaves.
                while stream.is_open:
                    caller = await self._still(request)
                    if not may(caller, Permission.ACCOUNTS, account):
                        return False
                    try:
                        events, after, is_last = await self._feed.page(after, account)
                    except StorageUnavailable:
                        return True
                    text = "".join(
                        _message(event.id, event.kind, event_json(event))
                        for event in events
                        if may_see(caller, event)
                    )
                    if not text and self._clock.monotonic() - stream.written_at >= KEEP_ALIVE:
                        # Also advances the client's id past events that were not for it.
                        text = f": alive\nid: {after}\n\n"
                    if text:
                        await stream.write(text)
                    if is_last:
                        return True
                return False

            return first, tell

        return await self._streams.follow(request, request[CALLER].name, begin)


class EventRoutes:
    """The route for callers."""

    def __init__(self, *, streams: Streams, authorizer: Authorizer) -> None:
        self._streams, self._authorizer = streams, authorizer

    @Operation(
        "GET",
        "/events",
        "Stream what happens to the caller's accounts, as server-sent events, from now on",
        {
            "200": {
                "description": "The stream",
                "content": {"text/event-stream": {"schema": schema.TEXT, "example": EXAMPLE}},
            }
        },
        permission=Permission.ACCOUNTS,
        query={"account": ("Only events of this account", schema.NAME)},
        headers={
            "Last-Event-ID": (
                "The id of the last event that the client has; the stream goes on after it",
                {"type": "string", "pattern": "^[0-9]{1,15}$"},
            )
        },
    )
    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Stream the events that the caller may see."""
        check_query(request)
        account = request.query.get("account")
        if account is not None and not is_account_name(account):
            raise InvalidRequest("account is an account's name")
        last_id = last_event_id(request)
        await self._authorizer.require(
            request[CALLER], Permission.ACCOUNTS, account, request_id=request[REQUEST_ID], action="events"
        )
        return await self._streams.follow(request, last_id=last_id, account=account)


def last_event_id(request: web.Request) -> int | None:
    """Return the id of the last event that the client has received; raises InvalidRequest."""
    text = request.headers.get("Last-Event-ID", "")
    if text and not ID.fullmatch(text):
        raise InvalidRequest("Last-Event-ID is the id of an event, a whole number")
    return int(text) if text else None


def _message(number: int, kind: str, value: Mapping[str, object]) -> str:
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return f"id: {number}\nevent: {kind}\ndata: {data}\n\n"
