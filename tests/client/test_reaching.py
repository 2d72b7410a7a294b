"""Where the broker is and what is shown to it: addresses, and keys that others replace."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from broker.client import (
    Broker,
    BrokerAway,
    BrokerError,
    KeyUnreadable,
    NeedsReauthorization,
    SyncBroker,
    Token,
    Unauthenticated,
)
from broker.client.testing import FakeBroker
from tests.house import House
from tests.process import new_process

BOTH = pytest.mark.parametrize("kind", [Broker, SyncBroker])
Kind = type[Broker] | type[SyncBroker]


async def ask(broker: Broker | SyncBroker, account: str = "acme") -> Token:
    if isinstance(broker, Broker):
        return await broker.token(account)
    return await asyncio.to_thread(broker.token, account)


@BOTH
async def test_key_of_a_file_is_read_again(kind: Kind, fake_broker: FakeBroker, tmp_path: Path) -> None:
    """Whoever replaces it needs to tell nobody: so Kubernetes renews its projected tokens."""
    file = tmp_path / "token"
    file.write_text(f"{fake_broker.key}\n")
    broker = kind(fake_broker.url, key_file=file)
    await ask(broker)

    fake_broker.key = "tbk_other"
    file.write_text(fake_broker.key)
    token = await ask(broker, "globex")

    assert "globex" == token.account


@BOTH
async def test_key_replaced_while_the_old_one_was_on_its_way(
    kind: Kind, fake_broker: FakeBroker, tmp_path: Path
) -> None:
    """A 401 is no end when the file now holds another key; when it holds the same, it is."""
    keys = iter(["tbk_old", fake_broker.key, fake_broker.key, fake_broker.key])

    token = await ask(kind(fake_broker.url, key=lambda: next(keys)))
    with pytest.raises(Unauthenticated):
        await ask(kind(fake_broker.url, key="tbk_old"))

    assert 1 == token.generation
    assert 3 == len(fake_broker.asked)


@BOTH
async def test_key_from_the_environment(kind: Kind, fake_broker: FakeBroker) -> None:
    """`BROKER_KEY`, where nothing is given."""
    program = f"""
import asyncio
from broker.client import Broker, SyncBroker
token = {kind.__name__}({fake_broker.url!r}).token("acme")
print(token if isinstance(token, str) else asyncio.run(token))
"""
    environment = {"BROKER_KEY": fake_broker.key, "PYTHONPATH": str(Path(__file__).parents[2])}

    ran = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await ran.communicate()

    assert fake_broker.access_token("acme") == out.decode().strip()


@BOTH
@pytest.mark.parametrize("content", [None, "", "two words", "schlüssel"])
async def test_key_that_is_none_is_told_without_quoting_it(
    kind: Kind, fake_broker: FakeBroker, tmp_path: Path, content: str | None
) -> None:
    """The file's name says where to look; nothing is sent."""
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)

    with pytest.raises(KeyUnreadable) as caught:
        await ask(kind(fake_broker.url, key_file=file))

    assert str(file) in caught.value.detail
    assert not content or content not in str(caught.value)
    assert [] == fake_broker.asked


def test_key_is_given_once() -> None:
    """Both at once would leave open which one counts."""
    with pytest.raises(ValueError, match="not both"):
        Broker("http://127.0.0.1:8080", key="tbk_x", key_file="file")

    with pytest.raises(BrokerError):
        Broker("http://127.0.0.1:8080", key="two words")


@BOTH
@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://host", "http://", "http://tbk_k@host", "http://host/?key=x", "unix:"]
)
def test_address_that_is_none_is_told(kind: Kind, url: str) -> None:
    """Before anything is asked."""
    with pytest.raises(ValueError, match=r"URL|Unix socket"):
        kind(url)


async def test_over_a_unix_socket_the_uid_is_enough(tmp_path: Path) -> None:
    """As on the broker's own admin socket, which speaks the same API."""
    async with new_process(tmp_path / "run") as process:
        await process.start()
        await process.connect("acme")
        path = process.folder / "var" / "admin.sock"

        tokens = [
            await ask(kind(url))
            for kind in (Broker, SyncBroker)
            for url in (f"unix:{path}", f"unix://{path}")
        ]

    assert 4 == len(tokens)
    assert {"acme"} == {token.account for token in tokens}


@BOTH
async def test_real_broker_behind_a_path(kind: Kind, house: House) -> None:
    """A real token; and an address with a path is asked below that path."""
    await house.connect()

    token = await ask(kind(house.internal, key=house.key))
    with pytest.raises(BrokerError, match="No such route"):
        await ask(kind(f"{house.internal}/below/", key=house.key))

    assert (await house.get("/token/acme")).json["access_token"] == token


@BOTH
async def test_certificates_are_checked(kind: Kind, tmp_path: Path) -> None:
    """One of an own authority is taken only with a context that knows it."""
    server_side, client_side = _own_certificate(tmp_path)
    server = await asyncio.start_server(_answer_with_a_token, "127.0.0.1", 0, ssl=server_side)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    token = await ask(kind(url, key="tbk_k", tls=client_side))
    with pytest.raises(BrokerAway):
        await ask(kind(url, key="tbk_k", patience=0))

    server.close()
    assert "t" == token


TOKEN = b'{"access_token":"%s","generation":1,"expires_in":60}' % (b"t" * 3000)
DEAD = b'{"code":"needs_reauthorization","detail":"why it is so","reason":"lost_rotation"}'


def _answer(status: bytes, framing: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\n%s\r\n\r\n%s" % (status, framing, body)


def _chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@BOTH
@pytest.mark.parametrize("size", [1, 100, 1460])
@pytest.mark.parametrize(
    "answer",
    [
        _answer(b"200 OK", b"Content-Length: %d" % len(TOKEN), TOKEN),
        _answer(b"200 OK", b"Transfer-Encoding: chunked", _chunked(TOKEN, 700)),
        _answer(b"200 OK", b"Connection: close", TOKEN),
    ],
    ids=["length", "chunked", "until-close"],
)
async def test_answer_in_pieces(kind: Kind, answer: bytes, size: int) -> None:
    """However a network divides it, and however its end is told."""
    async with _in_pieces(answer, size) as url:
        token = await ask(kind(url, key="tbk_k", patience=0))

    assert "t" * 3000 == token


@BOTH
async def test_refusal_in_pieces_keeps_its_class(kind: Kind) -> None:
    answer = _answer(b"409 Conflict", b"Content-Length: %d" % len(DEAD), DEAD)
    async with _in_pieces(answer, 7) as url:
        with pytest.raises(NeedsReauthorization, match="why it is so"):
            await ask(kind(url, key="tbk_k", patience=0))


@BOTH
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (_answer(b"200 OK", b"Content-Length: %d" % (len(TOKEN) + 1), TOKEN), "cut off|ClientPayloadError"),
        (
            _answer(b"200 OK", b"Transfer-Encoding: chunked", _chunked(TOKEN, 700)[:-5]),
            "IncompleteRead|ClientPayloadError",
        ),
        (_answer(b"200 OK", b"Connection: close", TOKEN + b" " * (1 << 20)), "larger than 1 MiB"),
    ],
    ids=["cut", "cut-chunked", "too-large"],
)
async def test_part_of_an_answer_is_none(kind: Kind, answer: bytes, why: str) -> None:
    """It is told as what it is, and not as an answer of something else."""
    async with _in_pieces(answer, 64 * 1024) as url:
        with pytest.raises(BrokerAway, match=why):
            await ask(kind(url, key="tbk_k", patience=0))


@asynccontextmanager
async def _in_pieces(answer: bytes, size: int) -> AsyncIterator[str]:
    """A server whose every answer is `answer`, `size` bytes at a time."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            for at in range(0, len(answer), size):
                writer.write(answer[at : at + size])
                await writer.drain()
                # The client in this loop meets each piece alone.
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _answer_with_a_token(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    body = b'{"access_token":"t","generation":1,"expires_in":60}'
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


def _own_certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For the server, and for a client that knows it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1)
        )
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "broker.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(pem)
    return server_side, ssl.create_default_context(cadata=certificate.public_bytes(Encoding.PEM).decode())
