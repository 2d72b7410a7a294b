"""Sound requests, broken by chance: the same ones for the same seed."""

import random
from collections.abc import Callable

from tests.hostile.messages import CANARY, CLOSE, KNOWN
from tests.hostile.wire import Raw

BITS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b"\xff",
    b"%",
    b"%00",
    b"%0d%0a",
    b"\x0b",
    b"HTTP/1.1",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 3\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"0\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "é".encode(),
    b"\xed\xa0\x80",
    b"9" * 400,
)


def sound(listener: str) -> list[bytes]:
    """What a visitor of the listener may well send."""
    canary = CANARY.encode()
    body = b'{"provider": "kit", "account": "' + canary + b'!"}'
    length = b"Content-Length: %d\r\n" % len(body)
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    heads = {
        "internal": (
            b"GET /token/acme?min_ttl=5",
            b"GET /accounts?status=active",
            b"GET /token/" + canary + b"!",
        ),
        "public": (
            b"GET /install/kit?ticket=" + canary,
            b"GET /callback/kit?state=" + canary + b"&code=" + canary,
            b"GET /install/kit?redirect=https://app.kit.com/apps/717?success=true",
        ),
    }
    posts = {"internal": b"POST /installs", "public": b"POST /callback/kit"}
    known = b" HTTP/1.1\r\n" + KNOWN + CLOSE
    return [
        *(head + known + b"Accept: */*\r\nCookie: a=b\r\n\r\n" for head in heads[listener]),
        posts[listener] + known + length + b"\r\n" + body,
        posts[listener] + known + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
    ]


def mutations(listener: str, seed: int, number: int) -> list[Raw]:
    """So many broken requests, no two alike."""
    chance, whole = random.Random(seed), sound(listener)
    made: dict[bytes, Raw] = {}
    while len(made) < number:
        data = _broken(chance, chance.choice(whole))
        made[data] = Raw(f"seed {seed}, number {len(made)}", data, half_close=chance.random() < 0.2)
    return list(made.values())


def _broken(chance: random.Random, data: bytes) -> bytes:
    ways: tuple[Callable[[random.Random, bytes], bytes], ...] = (_insert, _flip, _cut, _repeat, _swap)
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(ways)(chance, data)
    return data


def _insert(chance: random.Random, data: bytes) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + chance.choice(BITS) + data[at:]


def _flip(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data)) if data else 0
    return data[:at] + chance.randbytes(1) + data[at + 1 :]


def _cut(chance: random.Random, data: bytes) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + data[at + chance.randint(1, 12) :]


def _repeat(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    return b"\r\n".join([*lines, chance.choice(lines)] if chance.random() < 0.3 else _doubled(chance, lines))


def _doubled(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    at = chance.randrange(len(lines))
    return [*lines[: at + 1], *lines[at:]]


def _swap(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    chance.shuffle(lines)
    return b"\r\n".join(lines)
