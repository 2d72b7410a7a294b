"""When a record cannot be written: readers go on for a while, changes do not, and nothing is lost or out of order."""

import asyncio
import json

import pytest

from broker.audit.lines import Stakes
from broker.errors import AuditUnavailable
from tests.audit.lines import first_problem, verified
from tests.audit.sinks import Sink, by, open_desk


async def test_record_is_written_before_it_returns() -> None:
    """Whoever awaits it may hand out the token."""
    async with open_desk() as desk:
        await desk.audit.record(by("a"))

        assert ["a"] == desk.callers


async def test_records_of_one_turn_share_a_write() -> None:
    """A hundred callers cost the disk as much as one, and stand in the order in which they came."""
    async with open_desk() as desk:
        before = desk.sink.writes

        await asyncio.gather(*[desk.audit.record(by(f"c{number}")) for number in range(100)])

        assert 1 == desk.sink.writes - before
        assert [f"c{number}" for number in range(100)] == desk.callers


async def test_change_is_refused_and_leaves_no_line() -> None:
    """The one that met the failure, and every one behind it; what was not done is not on record as allowed."""
    async with open_desk() as desk:
        desk.sink.full = True

        outcomes = await asyncio.gather(
            desk.audit.record(by("first"), Stakes.CHANGE),
            desk.audit.record(by("reader")),
            return_exceptions=True,
        )
        with pytest.raises(AuditUnavailable):
            await desk.audit.record(by("second"), Stakes.CHANGE)
        desk.sink.full = False
        await desk.look_after()

        assert [AuditUnavailable, type(None)] == [type(one) for one in outcomes]
        assert ["reader"] == desk.callers


async def test_what_waited_is_written_in_order_and_the_alarm_ends() -> None:
    """Also where the sink takes only some of it at first; the chain does not show that anything was the matter."""
    async with open_desk() as desk:
        desk.sink.full = True
        for name in "abcdef":
            await desk.audit.record(by(name))

        desk.sink.full, desk.sink.room = False, 2
        await desk.look_after()
        some, told = desk.callers, bool(desk.health.problems)
        desk.sink.room = None
        await desk.look_after()
        await desk.audit.record(by("g"), Stakes.CHANGE)

        assert (["a", "b"], True) == (some, told)
        assert (list("abcdefg"), []) == (desk.callers, desk.health.problems)
        assert None is first_problem(verified(desk.sink.lines, desk.audit.head))


async def test_ten_thousand_records_wait_and_no_more() -> None:
    """Then even readers are refused; what is done already is kept all the same."""
    async with open_desk() as desk:
        desk.sink.full = True
        for number in range(10_000):
            await desk.audit.record(by(f"c{number}"))

        with pytest.raises(AuditUnavailable):
            await desk.audit.record(by("one too many"))
        await desk.audit.record(by("done"), Stakes.DONE)
        desk.sink.full = False
        for _ in range(12):
            await desk.look_after()

        assert [*(f"c{number}" for number in range(10_000)), "done"] == desk.callers


async def test_bound_holds_for_a_crowd_that_met_the_failure_together() -> None:
    """As for those that came one by one."""
    async with open_desk() as desk:
        desk.sink.full = True
        crowd = [desk.audit.record(by(f"c{number}")) for number in range(10_050)]

        outcomes = await asyncio.gather(*crowd, return_exceptions=True)

        assert 50 == sum(isinstance(one, AuditUnavailable) for one in outcomes)


async def test_records_wait_for_a_minute_and_no_longer() -> None:
    """Counted from the oldest that waits."""
    async with open_desk() as desk:
        desk.sink.full = True
        await desk.audit.record(by("a"))

        desk.clock.advance(59.9)
        await desk.audit.record(by("b"))
        desk.clock.advance(0.2)
        with pytest.raises(AuditUnavailable):
            await desk.audit.record(by("c"))
        desk.sink.full = False
        await desk.look_after()
        await desk.audit.record(by("d"))

        assert ["a", "b", "d"] == desk.callers


async def test_write_that_hangs_holds_up_nobody() -> None:
    """At the second look it counts as failed: readers go on, changes are refused; when it ends all is written once."""
    async with open_desk() as desk:
        desk.sink.free.clear()
        desk.sink.entered.clear()
        reader = asyncio.ensure_future(desk.audit.record(by("a")))
        change = asyncio.ensure_future(desk.audit.record(by("b"), Stakes.CHANGE))
        await asyncio.to_thread(desk.sink.entered.wait)

        desk.audit.look_after()
        at_first = reader.done()
        desk.audit.look_after()
        await reader
        with pytest.raises(AuditUnavailable):
            await change
        await desk.audit.record(by("c"))
        desk.sink.free.set()
        await desk.settle()
        await desk.settle()

        assert not at_first
        assert ["a", "b", "c"] == desk.callers
        assert [] == desk.health.problems


async def test_caller_that_hangs_up_stays_on_record() -> None:
    """And takes nobody else's record with it."""
    async with open_desk() as desk:
        gone = asyncio.ensure_future(desk.audit.record(by("gone")))
        stays = asyncio.ensure_future(desk.audit.record(by("stays")))
        await asyncio.sleep(0)

        gone.cancel()
        await stays

        assert ["gone", "stays"] == desk.callers


async def test_what_waits_is_written_at_the_stop() -> None:
    """Where the sink takes it by then; the last line says that it was a stop."""
    sink = Sink()
    async with open_desk(sink) as desk:
        sink.full = True
        for number in range(2_500):
            await desk.audit.record(by(f"c{number}"))
        sink.full = False

    assert [f"c{number}" for number in range(2_500)] == desk.callers
    assert "audit.stop" == json.loads(sink.lines[-1])["action"]


async def test_stop_does_not_wait_for_a_sink_that_stays_full() -> None:
    """What is lost is counted in the log; nothing of it is in the chain."""
    sink = Sink()
    async with open_desk(sink) as desk:
        await desk.audit.record(by("a"))
        sink.full = True
        await desk.audit.record(by("b"))

    assert ["a"] == desk.callers
    assert None is first_problem(verified(sink.lines))


async def test_start_on_a_full_sink_is_a_start() -> None:
    """The chain begins when there is room, before what waited."""
    sink = Sink(full=True)
    async with open_desk(sink) as desk:
        await desk.audit.record(by("a"))
        sink.full = False
        await desk.look_after()

        assert ["audit.start", "token"] == [json.loads(line)["action"] for line in sink.lines]
        assert [] == desk.health.problems


async def test_order_is_kept_where_others_came_during_the_failing_write() -> None:
    """What was refused by the sink goes before what came behind it."""
    async with open_desk() as desk:
        desk.sink.free.clear()
        desk.sink.entered.clear()
        first = asyncio.ensure_future(desk.audit.record(by("a")))
        await asyncio.to_thread(desk.sink.entered.wait)
        second = asyncio.ensure_future(desk.audit.record(by("b")))
        await asyncio.sleep(0)

        desk.sink.full = True
        desk.sink.free.set()
        await asyncio.gather(first, second)
        desk.sink.full = False
        await desk.look_after()

        assert ["a", "b"] == desk.callers
