"""What only a wire shows: certificates, other origins, endless bodies, private addresses, and who may read a secret."""

import asyncio
import datetime
import gzip
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from broker import __version__
from broker.providers.client import MAX_BODY, Answer, Lost, ProviderClient, Reply
from broker.providers.network import PublicResolver
from broker.providers.outcomes import NotSent
from tests.fakes import upstream as fake
from tests.fakes.upstream import JSON, Cut, Drop, Raw, Scripted, Stall, Upstream
from tests.ports import free_port

CANARY = "canary-3c1d"
HEADERS = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Basic {CANARY}"}
BODY = f"grant_type=refresh_token&refresh_token={CANARY}".encode()
TOKENS = b'{"access_token":"at","refresh_token":"rt"}'


@pytest.fixture(name="upstream")
async def _upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture(name="http")
async def _http() -> AsyncIterator[ProviderClient]:
    http = ProviderClient()
    yield http
    await http.close()


async def post(
    http: ProviderClient,
    url: str,
    *,
    announced: list[str] | None = None,
    headers: Mapping[str, str] = HEADERS,
    timeout: float = 5.0,
    public_only: bool = False,
) -> Reply:
    async def before_send() -> None:
        if announced is not None:
            announced.append("now")

    return await http.post(
        url, data=BODY, headers=headers, timeout=timeout, before_send=before_send, public_only=public_only
    )


def certificate(folder: Path, *, host: str = "localhost", days: int = 1) -> tuple[Path, Path]:
    """A self-signed certificate for `host`, good for so many days from yesterday on, and its key."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(yesterday)
        .not_valid_after(yesterday + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    (folder / "cert.pem").write_bytes(built.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


@asynccontextmanager
async def tls_server(cert: Path, key: Path, received: bytearray) -> AsyncIterator[int]:
    """Answers each request with tokens and notes every byte that came out of the encryption; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(65536))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(TOKENS), TOKENS))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("host", "days", "trusted", "arrives"),
    [
        pytest.param("localhost", 30, True, True, id="good"),
        pytest.param("localhost", 30, False, False, id="signed by nobody known"),
        pytest.param("localhost", 1, True, False, id="expired"),
        pytest.param("other.example", 30, True, False, id="another host's"),
    ],
)
async def test_certificate_is_verified(
    tmp_path: Path, host: str, days: int, trusted: bool, arrives: bool
) -> None:
    """Whatever is wrong with it: certainly not sent, nothing announced, not a byte at the other end."""
    cert, key = certificate(tmp_path, host=host, days=days)
    context = ssl.create_default_context(cafile=str(cert)) if trusted else None
    http, announced, received = ProviderClient(ssl_context=context), list[str](), bytearray()

    async with tls_server(cert, key, received) as port:
        reply = await post(http, f"https://localhost:{port}/token", announced=announced)
        await http.close()

    assert (Answer if arrives else NotSent) is type(reply)
    assert arrives is bool(announced) is (CANARY.encode() in received)


async def test_plain_server_under_https_is_not_sent(http: ProviderClient, upstream: Upstream) -> None:
    """A TLS handshake that fails leaves nothing behind."""
    upstream.script([Drop()])

    reply = await post(http, upstream.url.replace("http://127.0.0.1", "https://localhost"), timeout=2.0)

    assert NotSent is type(reply)


async def test_unknown_host_is_not_sent(http: ProviderClient) -> None:
    """A name that DNS does not know (RFC 6761 keeps `.invalid` for that)."""
    announced: list[str] = []

    reply = await post(http, "http://nobody.invalid/token", announced=announced)

    assert (NotSent, []) == (type(reply), announced)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(http: ProviderClient, upstream: Upstream, status: int) -> None:
    """The new origin gets neither the secret nor the token, and not even a connection."""
    async with Upstream() as elsewhere:
        upstream.script([fake.Answer(status, {"Location": elsewhere.url}, b"")])

        reply = await post(http, upstream.url)

        assert isinstance(reply, Answer)
        assert (status, []) == (reply.status, elsewhere.requests)


def endless(size: int) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"2000\r\n"
        + b"x" * 0x2000
        + (b"\r\n2000\r\n" + b"x" * 0x2000) * (size // 0x2000)
    )


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(fake.Answer(200, JSON, b"x" * (MAX_BODY + 1)), id="one byte too many"),
        pytest.param(Raw(endless(1_000_000)), id="endless"),
        pytest.param(
            fake.Answer(200, {"Content-Encoding": "gzip"}, gzip.compress(b"x" * 10_000_000)), id="gzip bomb"
        ),
        pytest.param(
            fake.Answer(200, {"Content-Encoding": "deflate"}, b"\xff" * 100), id="not what it says it is"
        ),
    ],
)
async def test_reading_stops_at_the_cap(http: ProviderClient, upstream: Upstream, script: Scripted) -> None:
    """The request may have been processed: lost, and no more kept than a little over 64 KiB."""
    upstream.script([script])

    reply = await post(http, upstream.url)

    assert isinstance(reply, Lost)
    assert (False, 200) == (reply.timed_out, reply.status)
    assert len(reply.prefix) < 2 * MAX_BODY


async def test_largest_body_is_read(http: ProviderClient, upstream: Upstream) -> None:
    """64 KiB to the byte are an answer."""
    upstream.script([fake.Answer(200, JSON, b"x" * MAX_BODY)])

    reply = await post(http, upstream.url)

    assert isinstance(reply, Answer)
    assert MAX_BODY == len(reply.body)


async def test_second_answer_on_the_connection_reaches_nobody(
    http: ProviderClient, upstream: Upstream
) -> None:
    """A provider that answers twice: the connection is thrown away with what else came over it."""
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    upstream.script([Raw(one + b"one" + one + b"two"), fake.Answer(200, JSON, b"three")])

    replies = [await post(http, upstream.url) for _ in range(2)]

    assert [b"one", b"three"] == [reply.body for reply in replies if isinstance(reply, Answer)]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(Drop(), id="dropped"),
        pytest.param(Raw(b"HTTP/1.1 "), id="cut in the status line"),
        pytest.param(Raw(b"HTTP/1.1 200 OK\r\nX: "), id="cut in the headers"),
        pytest.param(Raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"), id="a header too long"),
        pytest.param(Raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n"), id="headers too many"),
        pytest.param(Raw(b"HTTP/1.1 9999 What\r\n\r\n"), id="no status"),
        pytest.param(Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), id="another protocol"),
        pytest.param(Raw(b""), id="nothing"),
        pytest.param(
            Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), id="chunks of no size"
        ),
        pytest.param(
            Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), id="two lengths"
        ),
        pytest.param(Cut(200, JSON, TOKENS, after=10), id="cut in the body"),
    ],
)
async def test_whatever_breaks_after_sending_is_lost(
    http: ProviderClient, upstream: Upstream, script: Scripted
) -> None:
    """Never an exception, never `not sent`, never a second request."""
    upstream.script([script])

    reply = await post(http, upstream.url)

    assert isinstance(reply, Lost)
    assert not reply.timed_out
    assert 1 == len(upstream.requests)


@pytest.mark.parametrize(
    "script", [Drop(), Stall(), Cut(200, JSON, TOKENS, after=30), fake.Answer(401, JSON, b"{}"), Raw(b"\x00")]
)
async def test_no_reply_prints_what_was_sent_or_received(
    http: ProviderClient, upstream: Upstream, script: Scripted
) -> None:
    """Neither our headers and body nor the provider's body stand in a repr."""
    upstream.script([script])

    reply = await post(http, upstream.url, timeout=0.3)
    upstream.release()

    assert not any(word in repr(reply) for word in (CANARY, "refresh_token", 'at"'))


async def test_request_says_who_asks_and_what_it_understands(
    http: ProviderClient, upstream: Upstream
) -> None:
    """A real User-Agent, JSON, no compression, no cookies, even after the provider has set one."""
    upstream.script([fake.Answer(200, {"Set-Cookie": "a=b; Path=/"}, b"{}")] * 2)

    for _ in range(2):
        await post(http, upstream.url)

    for request in upstream.requests:
        assert (f"token-broker/{__version__}", "application/json", "identity", None) == (
            request.headers["user-agent"],
            request.headers["accept"],
            request.headers["accept-encoding"],
            request.headers.get("cookie"),
        )
    assert [] == upstream.violations


async def test_time_spent_on_the_announcement_counts(http: ProviderClient, upstream: Upstream) -> None:
    """A store that hangs just before the first byte ends in `not sent`: the whole request has one time-out."""

    async def never() -> None:
        await asyncio.Event().wait()

    reply = await http.post(
        upstream.url, data=BODY, headers=HEADERS, timeout=0.2, before_send=never, public_only=False
    )

    assert (NotSent, []) == (type(reply), upstream.requests)


@pytest.mark.parametrize(
    "error", [OSError("mine"), TimeoutError("mine"), ValueError("mine"), KeyError("mine")]
)
async def test_error_of_the_announcement_reaches_its_owner(
    http: ProviderClient, upstream: Upstream, error: Exception
) -> None:
    """Also where it looks like one of the network's."""

    async def before_send() -> None:
        raise error

    with pytest.raises(type(error), match="mine"):
        await http.post(
            upstream.url, data=BODY, headers=HEADERS, timeout=2, before_send=before_send, public_only=False
        )
    assert [] == upstream.requests


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ],
)
async def test_address_that_is_not_public_is_refused(address: str) -> None:
    """Loopback, private, link-local, carrier, multicast, and IPv4 dressed up as IPv6."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    resolver = PublicResolver()

    with pytest.raises(OSError, match="not public"):
        await resolver.resolve(address, 443, family)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
async def test_public_address_is_given(address: str) -> None:
    """As it was resolved, and the connection goes to that very address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    [found, *_] = await PublicResolver().resolve(address, 443, family)

    assert ipaddress.ip_address(address) == ipaddress.ip_address(found["host"])


async def test_host_of_an_org_that_leads_inside_gets_nothing(
    http: ProviderClient, upstream: Upstream
) -> None:
    """The name of the host is innocent, its address is ours."""
    announced: list[str] = []

    reply = await post(
        http, upstream.url.replace("127.0.0.1", "localhost"), announced=announced, public_only=True
    )

    assert (NotSent, [], []) == (type(reply), announced, upstream.requests)


@pytest.mark.parametrize("literal", ["127.0.0.1", "127.1", "2130706433", "[::ffff:127.0.0.1]"])
async def test_literal_address_made_from_an_org_gets_nothing(
    http: ProviderClient, upstream: Upstream, literal: str
) -> None:
    """A literal is never resolved, so the resolver alone would not see it."""
    reply = await post(http, upstream.url.replace("127.0.0.1", literal), public_only=True)

    assert (NotSent, []) == (type(reply), upstream.requests)


async def test_refused_connection_is_not_sent_however_often(http: ProviderClient) -> None:
    """Each attempt ends by itself."""
    url = f"http://127.0.0.1:{free_port()}/token"

    assert [NotSent] * 5 == [type(await post(http, url)) for _ in range(5)]
