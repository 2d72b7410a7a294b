"""The way to a provider: through a proxy, past it, and with a name server that does not answer."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker.alerts.hooks import WebhookClient
from broker.clock import SystemClock
from broker.config import load
from broker.config.settings import NetworkSettings
from broker.model import Secret
from broker.providers.client import Answer, Lost, ProviderClient, Reply
from broker.providers.network import THREADS, Resolver, proxy_for
from broker.providers.oauth2 import Providers
from broker.providers.outcomes import NotSent
from tests.ports import free_port
from tests.providers.test_wire import BODY, CANARY, HEADERS, certificate, tls_server

HOST = "provider.example"
TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass(slots=True)
class Proxy:
    """Leads every CONNECT to one port of this machine, or answers with `says` and hangs up."""

    target: int
    says: bytes = TUNNEL
    asked: list[bytes] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.says)
            await writer.drain()
            if self.says == TUNNEL:
                upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self.target)
                with closing(to_upstream):
                    await asyncio.gather(_copy(reader, to_upstream), _copy(upstream, writer))


async def test_providers_are_built_behind_a_proxy_with_a_password(tmp_path: Path) -> None:
    """And built anew at a reload, with the same client where the way is the same."""
    made = []
    for port in ("3128", "3128", "3129"):
        lines = f'[network]\nproxy = {{ env = "PROXY" }}\n[providers.kit]\nclient_id = "c"\nclient_secret = "{port}"\n'
        (tmp_path / "config.toml").write_text(lines)
        made.append(load(tmp_path / "config.toml", environ={"PROXY": f"http://u:p@proxy.example:{port}"}))
    async with AsyncExitStack() as stack:
        providers = Providers({}, clock=SystemClock(), timeout=1.0, closing=stack)
        clients = []
        for settings in made:
            providers.use(settings.providers)
            clients.append(providers["kit"]._http)

        assert (True, False) == (clients[0] is clients[1], clients[1] is clients[2])
        assert "through the proxy http://proxy.example:3129" == providers["kit"].route


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxy(target: int, says: bytes = TUNNEL) -> AsyncIterator[Proxy]:
    one, serving = Proxy(target, says), set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(one.serve(reader, writer)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        one.port = server.sockets[0].getsockname()[1]
        yield one
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
    await asyncio.sleep(0)


@asynccontextmanager
async def through(port: int, cert: Path | None = None, **more: Any) -> AsyncIterator[ProviderClient]:
    """A client whose proxy is there; it trusts `cert` besides."""
    address = Secret(f"http://user:p%40ss-{CANARY}@127.0.0.1:{port}")
    http = ProviderClient(
        network=NetworkSettings(address, ca=None if cert is None else cert.read_text(), **more)
    )
    yield http
    await http.close()


async def post(
    http: ProviderClient, announced: list[str], *, timeout: float = 5.0, public_only: bool = False
) -> Reply:
    async def before_send() -> None:
        announced.append("now")

    url = f"https://{HOST}/token"
    return await http.post(
        url, data=BODY, headers=HEADERS, timeout=timeout, before_send=before_send, public_only=public_only
    )


@pytest.mark.parametrize("public_only", [False, True])
async def test_request_goes_through_the_tunnel(tmp_path: Path, public_only: bool) -> None:
    """Announced once; the proxy has its password and nothing of the request, the provider nothing of the proxy."""
    cert, key = certificate(tmp_path, host=HOST, days=30)
    announced, received = list[str](), bytearray()
    async with tls_server(cert, key, received) as port, proxy(port) as way, through(way.port, cert) as http:
        reply = await post(http, announced, public_only=public_only)

    assert isinstance(reply, Answer)
    assert (200, ["now"]) == (reply.status, announced)
    assert way.asked[0].startswith(f"CONNECT {HOST}:443 HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic " in way.asked[0]
    assert CANARY.encode() not in way.asked[0]
    assert BODY in received
    assert b"proxy-authorization" not in received.lower()


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "the proxy answered 407",
        ),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno way", "the proxy answered 403"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "the proxy answered 502"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n", "the proxy answered 302"),
        (b"SSH-2.0-OpenSSH\r\n", "no connection"),
        (b"", "no connection"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>a captive portal</html>", "no connection"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "no connection"),
    ],
)
async def test_what_fails_before_the_tunnel_stands_was_not_sent(says: bytes, why: str) -> None:
    """Nothing is announced, and no password is told."""
    announced: list[str] = []
    async with proxy(0, says) as way, through(way.port) as http:
        reply = await post(http, announced, timeout=2.0)

    assert isinstance(reply, NotSent)
    assert why in reply.why
    assert [] == announced
    assert CANARY not in f"{reply!r} {http._network!r}"


async def test_proxy_that_is_not_there(tmp_path: Path) -> None:
    """Certainly not sent; so is what a certificate of somebody else keeps from being sent."""
    cert, key = certificate(tmp_path, host="other.example", days=30)
    announced, received = list[str](), bytearray()
    async with through(free_port()) as http:
        absent = await post(http, announced)
    async with tls_server(cert, key, received) as port, proxy(port) as way, through(way.port, cert) as http:
        foreign = await post(http, announced)

    assert absent == NotSent("no connection (the proxy cannot be reached)")
    assert isinstance(foreign, NotSent)
    assert ([], bytearray()) == (announced, received)


async def test_tunnel_that_breaks_after_the_request(tmp_path: Path) -> None:
    """The request may have been processed."""
    cert, key = certificate(tmp_path, host=HOST, days=30)
    announced: list[str] = []

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with await asyncio.start_server(drop, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        async with proxy(port) as way, through(way.port, cert) as http:
            reply = await post(http, announced)

    assert (Lost, ["now"]) == (type(reply), announced)


async def test_webhooks_go_through_the_proxy_too() -> None:
    """What fails there is a failure like any other."""
    async with proxy(0, b"HTTP/1.1 403 Forbidden\r\n\r\n") as way:
        client = WebhookClient(NetworkSettings(Secret(f"http://127.0.0.1:{way.port}")))
        with pytest.raises(OSError, match="403"):
            await _raised_as_os_error(client)
        await client.close()

    assert way.asked[0].startswith(b"CONNECT hooks.example:443 ")


async def _raised_as_os_error(client: WebhookClient) -> None:
    try:
        await client.post("https://hooks.example/in", b"{}", {})
    except Exception as exc:
        raise OSError(str(exc)) from exc


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [
        ("https://api.example.com/t", (), True),
        ("https://api.example.com/t", ("example.com",), False),
        ("https://api.example.com/t", (".example.com",), False),
        ("https://api.example.com/t", ("*.example.com",), False),
        ("https://API.Example.com./t", ("EXAMPLE.com",), False),
        ("https://notexample.com/t", ("example.com",), True),
        ("https://api.example.com/t", ("*",), False),
        ("https://api.example.com/t", ("api.example.com:443",), False),
        ("https://api.example.com:8443/t", ("api.example.com:443",), True),
        ("https://10.1.2.3/t", ("10.0.0.0/8",), False),
        ("https://10.1.2.3/t", ("10.1.2.3",), False),
        ("https://[fd00::1]/t", ("[fd00::1]",), False),
        ("https://[fd00::1]/t", ("fd00::/8",), False),
        ("https://[fd00::1]/t", ("[fd00::1]:443",), False),
        ("https://[fd00::1]:8443/t", ("[fd00::1]:443", ".example.com:8443"), True),
        ("https://api.example.com:8443/t", (".example.com:8443",), False),
        ("https://11.1.2.3/t", ("10.0.0.0/8", "x", ""), True),
        ("http://127.0.0.1:8089/t", (), False),
        ("http://localhost:8089/t", (), False),
        ("https://[::1]/t", (), False),
    ],
)
def test_who_is_reached_without_the_proxy(url: str, no_proxy: tuple[str, ...], proxied: bool) -> None:
    """As curl reads `no_proxy`; this machine never is."""
    network = NetworkSettings(Secret("http://proxy:3128"), no_proxy)

    assert proxied is (proxy_for(url, network) is not None)


class NameServer:
    """A `getaddrinfo` that does not come back for some names until it is let go."""

    def __init__(self) -> None:
        self.silent, self.unknown = set[str](), set[str]()
        self.let_go = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: object) -> list[Any]:
        self.asked.append(host)
        if host in self.silent:
            self.let_go.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        if host in self.unknown:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]


@pytest.fixture(name="names")
def _names() -> Any:
    names = NameServer()
    yield names
    names.let_go.set()


async def test_dead_name_server_holds_up_no_other_provider(names: NameServer) -> None:
    """More names than threads hang; another resolver answers at once, and all of the first one's end in time."""
    hanging = [f"org{number}.example" for number in range(3 * THREADS)]
    names.silent = set(hanging)
    dead, healthy = Resolver(lookup=names, within=0.2), Resolver(lookup=names, within=0.2)

    waiting = [asyncio.create_task(dead.resolve(host, 443)) for host in hanging]
    await asyncio.sleep(0)
    found = await healthy.resolve("ok.example", 443)
    ended = await asyncio.gather(*waiting, return_exceptions=True)

    assert "192.0.2.1" == found[0]["host"]
    assert {TimeoutError} == {type(one) for one in ended}
    assert THREADS == len([host for host in names.asked if host != "ok.example"])


async def test_last_good_answer_is_used_while_the_name_server_is_silent(names: NameServer) -> None:
    """But not where it says that the name is gone; and a new answer takes its place."""
    resolver = Resolver(lookup=names, within=0.1)
    first = await resolver.resolve("a.example", 443)
    names.silent = {"a.example"}
    during = await resolver.resolve("a.example", 443)
    names.let_go.set()
    again = await resolver.resolve("a.example", 443)
    names.silent, names.unknown = set(), {"a.example"}

    with pytest.raises(socket.gaierror):
        await resolver.resolve("a.example", 443)
    assert first == during == again


async def test_silence_about_an_unknown_name_is_an_error(names: NameServer) -> None:
    """Also an odd one, that cannot even be asked for."""
    names.silent = {"b.example"}

    with pytest.raises(TimeoutError):
        await Resolver(lookup=names, within=0.1).resolve("b.example", 443)
    with pytest.raises(OSError, match="no such name"):
        await Resolver().resolve("a" * 300 + ".example", 443)
