"""More than two thousand hostile requests on real sockets: none is a 5xx, none leaks, and the broker goes on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.hostile.conftest import Target
from tests.hostile.contents import bodies, connections, targets
from tests.hostile.messages import CANARY, KEY, framing, headers, lines
from tests.hostile.mutations import mutations
from tests.hostile.wire import Raw, complaint, talk, talk_all

SEED = 20_260_816
EACH = 250
Sort = Callable[[str], Iterator[Raw]]
SORTS: dict[str, Sort] = {
    "framing": lambda _: framing(),
    "lines": lambda _: lines(),
    "headers": lambda _: headers(),
    "targets": targets,
    "bodies": bodies,
    "connections": connections,
    "mutations": lambda listener: iter(mutations(listener, SEED, EACH)),
}
FEW = {"framing", "lines"}
"""Sorts that `make test` sends; the others are slow."""


async def attack(target: Target, listener: str, requests: list[Raw]) -> list[str]:
    """Send them all; what is wrong with the answers, the log, or the broker afterwards."""
    house = target.house
    secrets = [CANARY.encode(), house.key.encode()]
    filled = [replace(one, data=one.data.replace(KEY, house.key.encode())) for one in requests]
    answers = await talk_all(target.address(listener), filled)
    complaints = [
        complaint(request, answer, secrets) for request, answer in zip(filled, answers, strict=True)
    ]
    return [*filter(None, complaints), *told(target, secrets), *await aftermath(target, listener)]


def told(target: Target, secrets: list[bytes]) -> list[str]:
    """What the log should not hold."""
    log = target.log.getvalue()
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    bad = [str(event) for event in events if event["event"] in ("request.crashed", "library.logged")]
    leaks = ["a secret is in the log" for secret in secrets if secret.decode() in log]
    return [*bad[:3], *leaks, *(["a traceback is in the log"] if "Traceback" in log else [])]


async def aftermath(target: Target, listener: str) -> list[str]:
    """Good requests, and what is wrong with their answers."""
    house = target.house
    good = {
        "internal": f"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.key}\r\n",
        "public": "GET /install/kit?redirect=https://app.kit.com/apps HTTP/1.1\r\nHost: x\r\n",
        "admin": "GET /token/acme HTTP/1.1\r\nHost: x\r\n",
    }
    first = await talk(target.address(listener), f"{good[listener]}Connection: close\r\n\r\n".encode())
    expected = b"HTTP/1.1 302" if listener == "public" else b"HTTP/1.1 200"
    second = (await house.get("/token/acme")).status
    return (
        [] if first.startswith(expected) and second == 200 else [f"does not serve: {first[:40]!r}, {second}"]
    )


@pytest.mark.parametrize("listener", ["internal", "public"])
@pytest.mark.parametrize(
    "sort", [sort if sort in FEW else pytest.param(sort, marks=pytest.mark.slow) for sort in SORTS]
)
async def test_hostile_requests_are_refused_and_forgotten(target: Target, listener: str, sort: str) -> None:
    """No 5xx, no traceback, no secret in answer or log, every connection ends, and good requests are served."""
    requests = list(SORTS[sort](listener))

    complaints = await attack(target, listener, requests)

    assert [] == complaints, "\n".join(complaints)


@pytest.mark.slow
@pytest.mark.parametrize("sort", ["framing", "lines", "bodies"])
async def test_admin_socket_is_as_steady(target: Target, sort: str) -> None:
    """Whoever may open it is an operator; what they send may still be broken."""
    requests = [one for one in SORTS[sort]("admin") if b"check" not in one.data]

    complaints = await attack(target, "admin", requests)

    assert [] == complaints, "\n".join(complaints)


def test_there_are_as_many_as_was_promised() -> None:
    """At least 500 for each listener, and as many more made by chance; no two of a sort are the same."""
    written = {
        listener: [one for sort in SORTS if sort != "mutations" for one in SORTS[sort](listener)]
        for listener in ("internal", "public")
    }

    assert all(len({(one.data, one.half_close) for one in requests}) > 500 for requests in written.values())
    assert EACH == len({one.data for one in mutations("internal", SEED, EACH)})
