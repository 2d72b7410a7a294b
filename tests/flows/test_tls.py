"""TLS on both listeners of the real process: who may connect, and certificates that are renewed while it runs."""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from tests.certificates import Authority
from tests.process import Process, new_process

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
FILES = """
internal_tls = { cert = "internal.pem", key = "internal.key" }
public_tls = { cert = "public.pem", key = "public.key" }"""


@dataclass(frozen=True, slots=True)
class Stand:
    """A broker with TLS, and who signs its certificates."""

    process: Process
    authority: Authority

    def issue(self, name: str) -> None:
        """New certificates for both listeners."""
        folder = self.process.folder
        for listener in ("internal", "public"):
            self.authority.issue(folder / f"{listener}.pem", folder / f"{listener}.key", name=name)

    async def names(self) -> set[str]:
        """Whom both listeners say they are to somebody who connects now."""
        return {await self.name(port) for port in (self.process.internal_port, self.process.public_port)}

    async def name(self, port: int, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> str:
        """Raises SSLError, ConnectionError where the handshake fails."""
        context = ssl.create_default_context(cadata=self.authority.pem)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = newest
        # TLS 1.1 needs SHA-1, which OpenSSL offers at its lowest level only.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        subject = x509.load_der_x509_certificate(shown).subject
        return str(subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


@pytest.fixture(name="stand")
async def _stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with new_process(tmp_path / "run", extra='[log]\nformat = "json"') as process:
        text = process.config.read_text().replace('public_url = "http:', 'public_url = "https:')
        process.config.write_text(text.replace("[server]", f"[server]{FILES}"))
        stand = Stand(process, Authority())
        stand.issue("first")
        await process.start()
        yield stand


async def test_both_listeners_speak_tls_1_2_and_newer(stand: Stand) -> None:
    """Nothing older, nothing plain, and pages come with all that https allows."""
    process, client = stand.process, ssl.create_default_context(cadata=stand.authority.pem)
    ports = (process.internal_port, process.public_port)
    base = f"https://127.0.0.1:{process.public_port}"

    newer = [
        await stand.name(port, newest)
        for port in ports
        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    ]
    refused = [await older_is_refused(stand, port) for port in ports]
    code, link, err = await process.run("install-link", "kit", "--account", "acme")
    async with process.session.get(link.strip(), ssl=client, allow_redirects=False) as answer:
        headers = answer.headers

    assert ["first"] * 4 == newer
    assert [True, True] == refused
    assert (0, True) == (code, link.startswith(base)), err
    assert headers["Set-Cookie"].startswith("__Host-broker_browser=")
    assert "Strict-Transport-Security" in headers


async def older_is_refused(stand: Stand, port: int) -> bool:
    """TLS 1.1 and plain HTTP."""
    try:
        await stand.name(port, ssl.TLSVersion.TLSv1_1)
    except (ssl.SSLError, ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return b"HTTP/" not in answer
    return False


async def test_renewed_certificates_are_served_after_a_reload(stand: Stand) -> None:
    """New connections meet the new ones, old connections go on; a broken pair keeps the old ones and is told."""
    process = stand.process
    context = ssl.create_default_context(cadata=stand.authority.pem)
    reader, writer = await asyncio.open_connection("127.0.0.1", process.internal_port, ssl=context)

    stand.issue("second")
    before = await stand.names()
    await process.signal(signal.SIGHUP)
    await process.until("serving tokens")
    renewed = await stand.names()
    (process.folder / "public.key").write_bytes((process.folder / "internal.key").read_bytes())
    stand.authority.issue(process.folder / "internal.pem", process.folder / "internal.key", name="third")
    await process.signal(signal.SIGHUP)
    told = await process.until("reload refused")
    kept = await stand.names()
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()

    assert [{"first"}, {"second"}, {"second"}] == [before, renewed, kept]
    assert b'{"status":"ok"}' in answer
    assert "server.public_tls" in told
    assert ["server.public_tls"] == [
        str(line["problem"]).partition(":")[0] for line in process.events("reload.refused")
    ]


async def test_start_without_a_usable_pair_is_refused_in_one_sentence(stand: Stand) -> None:
    """The certificate's name in the configuration, and no traceback."""
    await stand.process.stop()
    (stand.process.folder / "internal.key").chmod(0o644)

    code, _, err = await stand.process.run("serve")

    assert code == 1
    assert "server.internal_tls.key" in err
    assert "Traceback" not in err
