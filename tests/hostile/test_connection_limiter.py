"""Who counts as one at the limiter."""

from ipaddress import ip_network

import pytest

from broker.errors import RateLimited
from broker.http.edge import Limits
from broker.http.peers import LOCAL, peer_of
from broker.http.server import ConnectionLimiter


@pytest.mark.parametrize(
    ("peername", "peer"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::1", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        ("", LOCAL),
        (None, LOCAL),
    ],
)
def test_address_is_one_subscriber(peername: object, peer: str) -> None:
    """IPv4 by address, IPv6 by the network that one subscriber has."""
    assert peer == peer_of(peername)


async def test_neighbours_in_one_network_share_their_number() -> None:
    """Somebody with a /64 has not 64 connections for each of its addresses; somebody else has."""
    limiter = ConnectionLimiter(Limits(per_peer=1))

    first, second, other = (
        limiter.enter(peer) for peer in ("2001:db8::/64", "2001:db8::/64", "2001:db8:0:1::/64")
    )

    assert (None, RateLimited, type(None)) == (first, type(second), type(other))


async def test_known_proxy_of_either_family_is_let_in() -> None:
    """And nobody beside it."""
    limiter = ConnectionLimiter(
        Limits(per_peer=0, uncapped=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))
    )

    answers = [
        limiter.enter(peer)
        for peer in ("192.0.2.9", "2001:db8:7::/64", LOCAL, "198.51.100.1", "2001:db9::/64")
    ]

    assert [type(None)] * 3 + [RateLimited] * 2 == [type(answer) for answer in answers]


async def test_place_is_given_back() -> None:
    """As often as one likes."""
    limiter = ConnectionLimiter(Limits(connections=1, per_peer=1))

    for _ in range(1000):
        assert limiter.enter("192.0.2.7") is None
        limiter.leave("192.0.2.7")

    assert {} == limiter.by_peer
