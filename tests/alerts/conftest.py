"""A house whose alerts go to a receiver; tests turn the rounds themselves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.model import Event, EventKind
from tests.alerts.receiver import Receiver, open_receiver
from tests.house import House, open_house


@pytest.fixture(name="receiver")
async def _receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as receiver:
        yield receiver


@pytest.fixture(name="told")
async def _told(tmp_path: Path, receiver: Receiver) -> AsyncIterator[House]:
    """A house with a webhook that has begun to listen."""
    async with open_house(tmp_path / "house", extra=receiver.config) as house:
        await house.broker.alerts.webhook.round()
        yield house


async def happen(house: House, *accounts: str | None, kind: EventKind = EventKind.CONNECTED) -> None:
    """Events of these accounts, in this order."""
    now = house.clock.now()
    events = [Event(now, kind, account, "kit", None, 1) for account in accounts]
    await house.broker.context.stores.events.add_events(events)


async def rounds(house: House) -> None:
    """Let the webhook's loop go until nothing is due."""
    while await house.broker.alerts.webhook.round():
        pass
