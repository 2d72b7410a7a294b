"""Clocks that are wrong, are set, and differ: no stored time is believed that the clock contradicts (R12)."""

import asyncio
from dataclasses import fields, replace

import pytest

from broker.clock import SteadyClock
from broker.context import Context
from broker.errors import ProviderUnavailable
from broker.http.edge import problem
from broker.observe.health import Health
from broker.tokens.background import Timekeeper
from broker.tokens.permit import Permit
from broker.tokens.schedule import Timings
from tests.fakes.clock import FakeClock
from tests.house import House

LIFE = 172800
DAY = 86400


async def rounds(house: House, count: int = 12, *, beat: float = 5.0) -> None:
    """Let the background go round so often."""
    running = asyncio.create_task(house.broker.background.run())
    for _ in range(count):
        await house.clock.settle()
        house.clock.advance(beat)
    await house.clock.settle()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await house.broker.tokens.flights.drain()


async def restart_at(house: House, jump: float) -> None:
    """Stop, set the machine's clock, start."""
    await house.close()
    house.clock.jump(jump)
    await house.open()


@pytest.mark.parametrize("behind", [3 * DAY, 60, 4000 * DAY])
async def test_clock_that_was_behind_at_the_start(house: House, behind: float) -> None:
    """The machine starts with an old clock, then the time is set: a token is served until its end, and no longer."""
    await house.connect()
    house.clock.advance(LIFE - 40)
    await restart_at(house, -behind)

    during = await house.get("/token/acme")
    house.clock.jump(behind)
    await rounds(house)
    after = await house.get("/token/acme")

    assert during.json["expires_in"] <= 5
    assert 2 == after.json["generation"]
    assert LIFE - 1100 < after.json["expires_in"] < LIFE
    assert 1 == await house.refreshes()


@pytest.mark.parametrize("ahead", [400 * DAY, 2 * DAY, 3600])
async def test_clock_that_was_ahead_and_is_mended(house: House, ahead: float) -> None:
    """Tokens of that time keep their real ends, pauses end, and no caller is sent away for longer than an hour."""
    await house.connect()
    await restart_at(house, ahead)
    await house.post("/token/acme/refresh", {"rejected_generation": 1})
    before = await house.get("/token/acme")
    house.sandbox.faults.set("kit", drop="before", times=1)
    asking = asyncio.create_task(house.post("/token/acme/refresh"))
    await house.clock.settle()
    paused = (await house.account()).trouble.not_before

    house.clock.jump(-ahead)
    await rounds(house)
    await asking
    after = await house.get("/token/acme")
    account = await house.account()

    assert paused is not None
    assert 2 == before.json["generation"]
    assert 3 == after.json["generation"]
    assert after.json["expires_in"] <= LIFE
    assert abs(account.issued_at - house.clock.now()) < 120
    assert "clock was set back" in str((await house.get("/readyz")).json["problems"])


async def test_rejected_token_of_a_wrong_clock_is_renewed(house: House) -> None:
    """One issued in the future is never fresh: a report of the provider's 401 renews it."""
    house.clock.jump(DAY)
    await house.restart()
    await house.connect()
    await restart_at(house, -DAY)

    answer = await house.post("/token/acme/refresh", {"rejected_generation": 1})

    assert (200, 2) == (answer.status, answer.json["generation"])


async def test_tokens_of_a_wrong_clock_are_renewed_at_a_pace(house: House) -> None:
    """A crowd of callers starts no renewal; the background renews all, ten a second."""
    await restart_at(house, 30 * DAY)
    for number in range(30):
        await house.connect("kit", f"acme-{number}", account=str(100 + number))
    await restart_at(house, -30 * DAY)

    answers = [await house.get(f"/token/acme-{number}") for number in range(30)]
    asked = await house.refreshes()
    await rounds(house, 5, beat=0.1)
    early = await house.refreshes()
    await rounds(house, 40, beat=0.5)

    assert 0 == asked
    assert all(answer.json["expires_in"] <= 5 for answer in answers)
    ends = {answer.json["provider_expires_at"] for answer in answers}
    assert all(end < "2027-01-18" for end in ends)
    assert early <= 14
    assert 30 == await house.refreshes()


async def test_nothing_is_deleted_by_a_clock_that_is_ahead(house: House) -> None:
    """Removed accounts and events are still there, whether it was so at the start or came later."""
    await house.connect()
    await house.connect("kit", "globex", account="2")
    await house.ask("DELETE", "/accounts/acme")
    events = await house.broker.context.stores.events.last_events(100)

    await restart_at(house, 400 * DAY)
    await rounds(house, 4)
    house.clock.jump(-400 * DAY)
    await rounds(house, 4)
    await house.restart()
    house.clock.jump(500 * DAY)
    await rounds(house, 4)
    house.clock.jump(-500 * DAY)
    await rounds(house, 4)

    assert await house.broker.context.stores.accounts.get("acme") is not None
    kept = {event.id for event in await house.broker.context.stores.events.last_events(1000)}
    assert {event.id for event in events} <= kept


async def test_what_is_old_is_deleted_by_a_clock_that_is_right(house: House) -> None:
    """Also after a small correction."""
    await house.connect()
    await house.ask("DELETE", "/accounts/acme")
    house.clock.jump(20)
    await rounds(house, 2)

    house.clock.advance(30 * DAY + 60)
    await rounds(house, 4)

    assert await house.broker.context.stores.accounts.get("acme") is None


class SharedContext(Context):
    """A context whose database is used by several brokers."""

    is_shared = True


def keeper(
    base: Context, clock: SteadyClock, machine: FakeClock, *, ahead: float
) -> tuple[Timekeeper, Health]:
    async def reference() -> float:
        return machine.now() - ahead

    parts = {field.name: getattr(base, field.name) for field in fields(Context)}
    changed = {"clock": machine, "steady": clock, "reference": reference, "health": (health := Health())}
    permit = Permit(providers={}, timings=Timings(), store_is_ready=lambda: True)
    return Timekeeper(SharedContext(**{**parts, **changed}), permit=permit), health


@pytest.mark.parametrize(
    ("ahead", "told"),
    [(7200.0, "2 h ahead of the database's"), (-45.0, "45 s behind the database's"), (20.0, None)],
)
async def test_machine_whose_clock_is_not_the_databases(house: House, ahead: float, told: str | None) -> None:
    """Tokens are judged by the database's; the broker says so, and the rows stay as they are."""
    machine = house.clock
    clock = SteadyClock(machine)
    before = await house.connect()
    timekeeper, health = keeper(house.broker.context, clock, machine, ahead=ahead)

    await timekeeper.check()

    assert machine.now() - ahead == clock.now()
    assert (told or "") in health.by_key.get("clock_skew", "")
    assert (told is None) is ("clock_skew" not in health.by_key)
    assert before == replace(await house.account(), last_used_at=before.last_used_at)


@pytest.mark.parametrize(("seconds", "header"), [(5.0, "5"), (0.2, "1"), (34559991.0, "3600")])
def test_callers_wait_an_hour_at_most(seconds: float, header: str) -> None:
    """Whatever a clock says."""
    assert header == problem(ProviderUnavailable(retry_after=seconds), "id").headers["Retry-After"]
