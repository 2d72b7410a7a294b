"""Whose X-Forwarded-For is believed, and how far: a table."""

from ipaddress import ip_network

import pytest

from broker.http.peers import client_address

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        pytest.param("203.0.113.7", [], "203.0.113.7", id="nobody between"),
        pytest.param("203.0.113.7", ["198.51.100.1"], "203.0.113.7", id="a stranger is not believed"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="a proxy that says nothing"),
        pytest.param("10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="one proxy"),
        pytest.param("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1", id="two proxies"),
        pytest.param("10.0.0.1", ["1.2.3.4, 198.51.100.1"], "198.51.100.1", id="the client wrote one itself"),
        pytest.param("10.0.0.1", ["127.0.0.1, 198.51.100.1"], "198.51.100.1", id="even a trusted one"),
        pytest.param("10.0.0.1", ["10.9.9.9", "198.51.100.1"], "198.51.100.1", id="two lines are one list"),
        pytest.param("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3", id="proxies only"),
        pytest.param("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1", id="a hop that is no address"),
        pytest.param("10.0.0.1", ["198.51.100.1, "], "10.0.0.1", id="a hop that is empty"),
        pytest.param("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1", id="with a port"),
        pytest.param("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1", id="IPv6 with a port"),
        pytest.param("10.0.0.1", ["2001:DB8:0::1"], "2001:db8::1", id="IPv6 in its short form"),
        pytest.param(
            "10.0.0.1", ["<script>, 198.51.100.1"], "198.51.100.1", id="what lies further is not read"
        ),
        pytest.param("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="IPv4 in the dress of IPv6"),
        pytest.param("203.0.113.7", ["127.0.0.1"], "203.0.113.7", id="nobody becomes this machine"),
        pytest.param("fd00::1", ["2001:db8::1, fd00::2"], "2001:db8::1", id="IPv6 proxies"),
        pytest.param("fe80::1%eth0", [], "fe80::1", id="a link's own address"),
        pytest.param(None, ["198.51.100.1"], None, id="a Unix socket"),
        pytest.param("", ["198.51.100.1"], None, id="a Unix socket, as aiohttp has it"),
    ],
)
def test_client_is_the_rightmost_whom_no_proxy_vouched_for(
    peer: str | None, forwarded: list[str], client: str | None
) -> None:
    """Each trusted hop vouches for the one to its left."""
    assert client == client_address(peer, forwarded, PROXIES)


def test_without_trusted_proxies_the_peer_it_is() -> None:
    """The default believes nobody, this machine included."""
    assert client_address("127.0.0.1", ["198.51.100.1"], []) == "127.0.0.1"
