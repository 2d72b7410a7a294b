"""Guessing is slow, and nobody with a valid credential notices."""

import pytest

from broker.http.peers import Throttle, peer_name, site_of
from tests.fakes.clock import FakeClock
from tests.house import Answer, House


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", "unknown"),
        (None, "unknown"),
        ("not an address", "unknown"),
    ],
)
def test_site_is_what_one_customer_has(address: str | None, site: str) -> None:
    """An IPv4 address, whatever it is dressed up as, or sixty-four bits."""
    assert site == site_of(address)


@pytest.mark.parametrize(
    ("uid", "address", "name"), [(1001, "", "uid 1001"), (0, None, "uid 0"), (None, "::1", "::/64")]
)
def test_peers_of_a_unix_socket_are_users(uid: int | None, address: str | None, name: str) -> None:
    """Root too; who comes over TCP is an address."""
    assert name == peer_name(uid, address)


def test_twenty_failures_a_minute() -> None:
    """The twenty-first waits until the first is a minute old; each after it likewise."""
    clock = FakeClock()
    throttle = Throttle(clock)
    first = [throttle.failed("a")]
    clock.advance(10)
    first += [throttle.failed("a") for _ in range(19)]
    held = [throttle.failed("a"), throttle.failed("a"), throttle.failed("b")]
    clock.advance(50)
    free = [throttle.failed("a"), throttle.failed("a")]

    assert ([None] * 20, [50.0, 50.0, None], [None, 10.0]) == (first, held, free)


def test_peers_are_bounded() -> None:
    """Who failed longest ago is forgotten first; who goes on failing is not."""
    throttle = Throttle(FakeClock(), peers=3)
    for _ in range(20):
        throttle.failed("steady")

    for number in range(10):
        throttle.failed(f"passing {number}")
        throttle.failed("steady")

    assert (3, 60.0) == (len(throttle), throttle.failed("steady"))


async def guess(house: House, number: int) -> Answer:
    return await house.get("/token/acme", key=f"tbk_{number:012x}_" + "a" * 43)


async def test_guesses_are_answered_with_429(house: House) -> None:
    """With the time to wait, on the twenty-first of a minute; a minute later it is 401 again."""
    statuses = [(await guess(house, number)).status for number in range(20)]

    over = await guess(house, 20)
    house.clock.advance(60)

    assert {401} == set(statuses)
    assert (429, "rate_limited", "60") == (over.status, over.json["code"], over.headers["Retry-After"])
    assert 401 == (await guess(house, 21)).status


async def test_valid_credential_is_never_slowed_down(house: House) -> None:
    """From the very address of the guesser; and it changes nothing for the guesser."""
    await house.connect()
    for number in range(30):
        await guess(house, number)

    own = [(await house.get("/token/acme")).status for _ in range(30)]

    assert ([200] * 30, 429) == (own, (await guess(house, 31)).status)


async def test_guesses_are_counted_by_reason(house: House) -> None:
    """Also those that got a 429."""
    for number in range(25):
        await guess(house, number)

    text = house.broker.context.metrics.text().decode()

    assert 'broker_auth_failures_total{reason="unknown"} 25.0' in text
