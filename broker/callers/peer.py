"""Who is at the other end of a connection: the kernel knows on a Unix socket, the address has to do elsewhere."""

import asyncio
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

CREDENTIALS = struct.Struct("iII")
"""pid, uid, gid: the kernel's struct ucred."""
ONE_SITE = 64
"""Bits of an IPv6 address that one customer cannot choose."""


def peer_uid(transport: asyncio.BaseTransport | None) -> int | None:
    """The uid that connected to a Unix socket (SO_PEERCRED, unix(7)); None on any other."""
    # Asked of every request: on TCP it is a tuple, and the socket's family takes longer to find out.
    if transport is None or isinstance(transport.get_extra_info("peername"), tuple):
        return None
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    _, uid, _ = CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return int(uid)


def peer_name(uid: int | None, address: str | None) -> str:
    """What failures are counted by."""
    return site_of(address) if uid is None else f"uid {uid}"


def site_of(address: str | None) -> str:
    """What stands for whoever has that address: an IPv4 address, or an IPv6 network."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    match parsed:
        case IPv6Address(ipv4_mapped=IPv4Address() as inner):
            return str(inner)
        case IPv6Address():
            return str(IPv6Network((parsed, ONE_SITE), strict=False))
        case _:
            return str(parsed)
