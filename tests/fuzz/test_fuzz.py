"""Generated input for every parser: seconds here, ten minutes each under `make proof` (FUZZ_SECONDS=180 for three)."""

import asyncio
import re
import socket
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz.harness import LONG, MOST_FINDINGS, SHORT, Report, Target, fuzz
from tests.fuzz.inputs import bodies, damaged
from tests.fuzz.targets import TARGETS
from tests.house import House

durations = pytest.mark.parametrize(
    "executions",
    [SHORT, pytest.param(None, marks=[pytest.mark.proof, pytest.mark.timeout(LONG + 120)])],
    ids=["short", "long"],
)


@pytest.mark.slow
@durations
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_parser_stands_whatever_it_reads(target: Target[Any], executions: int | None) -> None:
    """No exception but its own, and what it lets through is what it promises."""
    report = fuzz(target, executions=executions)

    assert report.executions > 1000
    assert [] == report.findings


@dataclass(slots=True)
class Line:
    """A connection to the broker, opened again whenever it hangs up."""

    port: int
    connection: socket.socket | None = None

    def ask(self, credential: bytes) -> bytes:
        """One request with this credential; head and body of its answer."""
        request = b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: " + credential + b"\r\n\r\n"
        for _ in range(2):
            try:
                return self._ask(request)
            except ConnectionError:
                self.close()
        raise AssertionError("the broker hangs up without an answer")

    def _ask(self, request: bytes) -> bytes:
        if self.connection is None:
            self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self.connection.sendall(request)
        received = b""
        while (length := whole(received)) is None or len(received) < length:
            piece = self.connection.recv(65536)
            if not piece:
                raise ConnectionResetError
            received += piece
        if b"\r\nConnection: close\r\n" in received:
            self.close()
        return received

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def whole(received: bytes) -> int | None:
    """How long the answer is that begins here, once that is known."""
    end = received.find(b"\r\n\r\n")
    found = re.search(rb"\r\nContent-Length: (\d+)", received[: end + 2])
    return end + 4 + int(found[1]) if end >= 0 and found else None


def credentials(key: str) -> "st.SearchStrategy[bytes]":
    """Keys and JWTs that are nearly right, and anything at all."""
    shapes = [key.encode(), b"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", b"tbk_000000000000_" + b"x" * 43]
    return st.one_of(
        st.sampled_from([b"Bearer " + shape for shape in shapes] + [b"Basic eDp5", b"bearer  x"]),
        st.text(max_size=40).map(lambda text: b"Bearer " + text.encode("utf-8", "surrogatepass")),
        st.binary(max_size=80),
    )


@pytest.mark.slow
@durations
async def test_credential_front_end_stands(house: House, executions: int | None) -> None:
    """Over a real connection: 401, 400 or 429, never a token, never a 5xx; nothing of what was sent comes back."""
    await house.connect()
    good, line = f"Bearer {house.key}".encode(), Line(house.internal_port)

    def check(credential: bytes) -> None:
        # Line ends would make other requests of it; those are in tests/hostile.
        credential = credential.replace(b"\r", b"").replace(b"\n", b"")[:7000]
        answer = line.ask(credential)
        expected = (
            (200,) if credential.strip(b" \t") in (good, good.lower()[:1] + good[1:]) else (400, 401, 429)
        )
        assert int(answer[9:12]) in expected, answer[:200]
        assert len(credential) < 12 or credential not in answer

    target = Target("credentials", credentials(house.key), damaged, check)
    report: Report = await asyncio.to_thread(fuzz, target, executions=executions)
    line.close()

    assert report.executions > 1000
    assert [] == report.findings
    assert 200 == (await house.get("/token/acme")).status


def test_findings_are_found_and_told() -> None:
    """The search itself can fail: a planted mistake is found again and again, with the input that shows it."""

    def mistaken(body: bytes) -> None:
        assert b"{" not in body

    report = fuzz(Target("planted", bodies, damaged, mistaken), executions=SHORT)

    assert 1 <= len(report.findings) <= MOST_FINDINGS
    assert all("{" in finding for finding in report.findings)
