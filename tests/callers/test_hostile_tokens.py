"""Six hundred JWTs that nobody should believe, against the internal listener over real sockets."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.callers.hostile import SUBJECT, hostile, issued_claims
from tests.callers.signing import Signer, ed25519, own_claims, p256, rsa
from tests.callers.test_jwt import table
from tests.fakes.issuer import NAME, open_issuer
from tests.house import House, open_house

OWN, NIST, ISSUED, STRANGER = ed25519("own"), p256("nist"), rsa("rsa"), rsa("stranger")

RIGHT = (b"Bearer ", b"bearer  ", b"BEARER ", b"bEaReR ")
"""A scheme is compared without its case (RFC 9110 11.1)."""
WRONG = (
    b"",
    b"Bearer",
    b"Bearer:",
    b"Bearer\t",
    b"Bearer\xa0",
    b"Basic ",
    b"DPoP ",
    b"Bearer Bearer ",
)


@dataclass(frozen=True, slots=True)
class Attack:
    """Sends each credential from an address of its own, so that none is slowed down by another."""

    house: House

    async def status(self, credential: bytes, number: int = 0, scheme: bytes = b"Bearer ") -> int:
        """The status of the answer; 0 where the connection was closed without one."""
        request = b"GET /token/acme HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n"
        request += b"Authorization: " + scheme + credential + b"\r\n\r\n"
        loop, answer = asyncio.get_running_loop(), b""
        with socket.socket() as connection, suppress(ConnectionError):
            connection.setblocking(False)
            connection.bind((f"127.0.{1 + number // 250}.{1 + number % 250}", 0))
            await loop.sock_connect(connection, ("127.0.0.1", self.house.internal_port))
            with suppress(ConnectionError):
                # Whoever sends too much is answered before all of it has left.
                await loop.sock_sendall(connection, request)
            answer = await loop.sock_recv(connection, 4096)
        found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
        return int(found[1]) if found else 0


@pytest.fixture
async def attack(tmp_path: Path) -> AsyncIterator[Attack]:
    async with open_issuer(ISSUED, NIST) as issuer:
        worker = f'''
[callers.worker]
accounts = ["*"]
issuer = "{NAME}"
jwks_url = "{issuer.url}"
subject = "{SUBJECT}"
'''
        extra = table("reporting", OWN) + table("billing", NIST) + worker
        async with open_house(tmp_path / "house", extra=extra) as house:
            await house.connect()
            yield Attack(house)


async def test_nobody_gets_in_and_nothing_breaks(attack: Attack) -> None:
    """Each is 401, or 400 where it is no HTTP; good ones before and after are believed."""
    now = int(attack.house.clock.now())
    tokens = list(hostile(OWN, ISSUED, STRANGER, now))
    before = await good_ones(attack, now)

    statuses = {name: await attack.status(token, at) for at, (name, token) in enumerate(tokens)}

    assert len(tokens) == len(statuses) > 600
    no_http = {"a NUL", "a line feed", "longer than a header", "100 KB", "1 MB", "1 MB signed"}
    assert dict.fromkeys(no_http, 400) == {name: found for name, found in statuses.items() if found != 401}
    assert [200] * 3 == before == await good_ones(attack, now)


async def good_ones(attack: Attack, now: int) -> list[int]:
    """What the hostile ones are made of is good."""
    good: list[tuple[Signer, dict[str, object], dict[str, str]]] = [
        (OWN, own_claims("reporting", now), {}),
        (NIST, own_claims("billing", now), {"kid": "../../etc/passwd"}),
        (ISSUED, issued_claims(now), {"kid": "rsa"}),
    ]
    return [
        await attack.status(signer.sign(claims, dict(header)).encode()) for signer, claims, header in good
    ]


async def test_scheme_is_bearer(attack: Attack) -> None:
    """With a good JWT behind it; of two headers neither is looked at."""
    good = OWN.sign(own_claims("reporting", attack.house.clock.now())).encode()

    statuses = {scheme: await attack.status(good, at, scheme) for at, scheme in enumerate((*RIGHT, *WRONG))}

    second = await attack.status(good + b"\r\nAuthorization: Bearer x", len(statuses))
    assert dict.fromkeys(RIGHT, 200) | dict.fromkeys(WRONG, 401) == statuses
    assert 400 == second
