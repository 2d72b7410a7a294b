"""One line before each answer; no line, no answer."""

import json
import os
import stat
from pathlib import Path

import pytest

from broker.errors import AuditUnavailable
from broker.observe.audit import Audit, AuditRecord, FileSink
from tests.fakes.clock import FakeClock
from tests.house import House


def lines(house: House) -> list[dict[str, object]]:
    return [json.loads(line) for line in (house.folder / "var" / "audit.jsonl").read_text().splitlines()]


async def test_handed_out_token_is_on_record_without_itself(house: House) -> None:
    """Who, which account, which generation, a keyed fingerprint, the request's id."""
    await house.connect()

    answer = await house.get("/token/acme", **{"X-Request-Id": "request-0001"})

    [line] = [one for one in lines(house) if one["request_id"] == "request-0001"]
    assert ("service", "token", "acme", "allowed", 1) == (
        line["caller"],
        line["action"],
        line["account"],
        line["decision"],
        line["generation"],
    )
    assert 16 == len(str(line["fingerprint"]))
    assert answer.json["access_token"] not in str(lines(house))


async def test_denial_is_on_record(house: House) -> None:
    """Also for what does not exist."""
    narrow = await house.caller("other", name="narrow")

    await house.get("/token/acme", key=narrow)

    assert [("narrow", "denied")] == [
        (one["caller"], one["decision"]) for one in lines(house) if one["caller"] == "narrow"
    ]


class BrokenSink:
    """A disk that is full."""

    def write(self, lines: bytes) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        """Nothing to close."""


async def test_no_line_no_answer() -> None:
    """It fails closed, and says so once to whoever watches."""
    told: list[bool] = []
    audit = Audit(sink=BrokenSink(), clock=FakeClock(), failed=told.append)

    with pytest.raises(AuditUnavailable):
        await audit.record(AuditRecord("c", "key k", "token", "acme", "allowed", "r"))

    assert [True] == told


async def test_file_is_for_its_owner_and_only_grows(tmp_path: Path) -> None:
    """0600, appended to, over restarts."""
    for name in ("one", "two"):
        sink = FileSink(tmp_path / "audit.jsonl")
        await Audit(sink=sink, clock=FakeClock()).record(
            AuditRecord(name, "k", "token", None, "allowed", "r")
        )
        sink.close()

    content = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert ["one", "two"] == [json.loads(line)["caller"] for line in content]
    assert 0o600 == stat.S_IMODE(os.stat(tmp_path / "audit.jsonl").st_mode)  # noqa: PTH116 - the file system itself
