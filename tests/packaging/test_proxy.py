"""The reverse proxies of docs/install.md: a real nginx, and a real Caddy, with TLS in front of a real broker."""

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from broker.sandbox import visitor
from tests.certificates import Authority
from tests.house import House
from tests.missing import needs
from tests.ports import free_port
from tests.process import Process, new_process
from tests.until import moment

pytestmark = pytest.mark.slow

CALLING = (Path(__file__).parent.parent.parent / "docs/calling.md").read_text()
PAGE = (Path(__file__).parent.parent.parent / "docs/install.md").read_text()
VISITOR = "127.0.0.7"
"""On loopback, and neither the proxy's address nor a trusted one."""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True)
class Proxied:
    """A broker with both its listeners behind a proxy."""

    process: Process
    public: str
    internal: str
    trust: ssl.SSLContext

    def connector(self) -> aiohttp.TCPConnector:
        """Connections of somebody who is not on the proxy's address."""
        return aiohttp.TCPConnector(ssl=self.trust, local_addr=(VISITOR, 0))

    def session(self) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {self.process.key}"} if self.process.key else {}
        timeout = aiohttp.ClientTimeout(total=60)
        return aiohttp.ClientSession(connector=self.connector(), headers=headers, timeout=timeout)


def adapted(kind: str, block: str, ports: dict[str, int], cert: Path, key: Path) -> str:
    """A block of the page with this test's addresses, name and certificate, and nothing else changed."""
    [behind] = re.findall(r"_(?:pass|proxy) (?:http://)?127\.0\.0\.1:(\d+)", block)
    listens, broker = {"8081": ("public", "to_public"), "8080": ("internal", "to_internal")}[behind]
    changes = {
        "nginx": (
            (r"listen (?:[\d.]+:)?\d+ ssl;", f"listen 127.0.0.1:{ports[listens]} ssl;"),
            (r"server_name \S+;", "server_name 127.0.0.1;"),
            (r"ssl_certificate +\S+;", f"ssl_certificate {cert};"),
            (r"ssl_certificate_key +\S+;", f"ssl_certificate_key {key};"),
            (r"proxy_pass \S+;", f"proxy_pass http://127.0.0.1:{ports[broker]};"),
        ),
        "caddy": (
            (r"^\S+ \{(?:\n    bind [\d.]+$)?", f"https://127.0.0.1:{ports[listens]} {{\n    bind 127.0.0.1"),
            (r"tls \S+ \S+", f"tls {cert} {key}"),
            (r"reverse_proxy \S+", f"reverse_proxy 127.0.0.1:{ports[broker]}"),
        ),
    }
    for pattern, new in changes[kind]:
        block, count = re.subn(pattern, new, block, flags=re.MULTILINE)
        assert 1 == count, pattern
    return block


def command_line(kind: str, folder: Path, servers: str) -> tuple[str | Path, ...]:
    """A proxy in the foreground, which keeps all it writes in `folder`."""
    command, config = needs(kind), folder / "proxy.conf"
    if kind == "caddy":
        config.write_text(
            f"{{\nadmin off\nauto_https disable_redirects\nstorage file_system {folder}\n}}\n{servers}"
        )
        return command, "run", "--adapter", "caddyfile", "--config", config
    paths = "\n".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY)
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}\n{servers}\n}}\n"
    )
    return command, "-e", "stderr", "-p", folder, "-c", config


@asynccontextmanager
async def proxy(command: tuple[str | Path, ...], folder: Path, ports: list[int]) -> AsyncIterator[None]:
    """One that runs, and takes connections."""
    with (folder / "said").open("wb") as said:
        running = await asyncio.create_subprocess_exec(
            *command, stderr=said, env={"HOME": str(folder), "PATH": os.defpath}
        )
    try:
        for port in ports:
            while not await is_open(port):
                assert running.returncode is None, (folder / "said").read_text()
                await moment()
        yield
    finally:
        if running.returncode is None:
            running.terminate()
        await running.wait()


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture(name="proxied", params=["nginx", "caddy"])
async def _proxied(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Proxied]:
    kind = request.param
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    authority = Authority()
    authority.issue(cert, key)
    async with new_process(tmp_path / "run", extra='[log]\nformat = "json"') as process:
        ports = {
            "public": free_port(),
            "internal": free_port(),
            "to_public": process.public_port,
            "to_internal": process.internal_port,
        }
        public = f"https://127.0.0.1:{ports['public']}"
        text = process.config.read_text()
        text = re.sub(r'public_url = "[^"]*"', f'public_url = "{public}"', text)
        process.config.write_text(text.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.1"]'))
        blocks = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
        servers = "\n".join(adapted(kind, block, ports, cert, key) for block in blocks)
        assert 2 == len(blocks)
        await process.start()
        command = command_line(kind, tmp_path, servers)
        async with proxy(command, tmp_path, [ports["public"], ports["internal"]]):
            trust = ssl.create_default_context(cadata=authority.pem)
            yield Proxied(process, public, f"https://127.0.0.1:{ports['internal']}", trust)


async def install_link(process: Process) -> str:
    code, url, err = await process.run("install-link", "kit", "--account", "acme")
    assert 0 == code, err
    return url.strip()


async def test_install_and_token_through_the_proxy(proxied: Proxied) -> None:
    """Log and audit name the visitor, whatever they say of themselves; cookies are for https alone."""
    link = await install_link(proxied.process)
    lies = {"X-Forwarded-For": "203.0.113.9"}
    async with proxied.session() as session:
        async with session.get(link, headers=lies, allow_redirects=False) as answer:
            seen = answer
        while seen.headers["Location"].startswith(proxied.public):
            async with session.get(seen.headers["Location"], headers=lies, allow_redirects=False) as answer:
                seen = answer
    visit = await visitor.install(await install_link(proxied.process), connector=proxied.connector())
    await proxied.process.new_key("*")
    async with proxied.session() as session, session.get(proxied.internal + "/token/acme") as answer:
        status = answer.status
    await proxied.process.stop()

    cookies = seen.headers.getall("Set-Cookie")
    assert link.startswith(proxied.public)
    assert cookies
    assert [] == [one for one in cookies if not (one.startswith("__Host-") and "; Secure" in one)]
    assert "Strict-Transport-Security" in seen.headers
    assert (200, 200) == (visit.status, status), visit.text
    assert visit.final_url.startswith(proxied.public)
    answered = proxied.process.events("request.answered")
    routes = {line.get("route") for line in answered if line["client"] == VISITOR}
    assert {"/install/{provider}", "/callback/{provider}", "/token/{account}"} <= routes
    assert {VISITOR} == {line["client"] for line in answered if line.get("client")}
    lines = (proxied.process.folder / "var/audit.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [VISITOR] == [one.get("client") for one in records if one["action"] == "token"]


async def test_events_come_through_at_once(proxied: Proxied) -> None:
    """While the stream stays open, which a proxy that buffers would keep to itself."""
    code, key, err = await proxied.process.run(
        "callers", "add", "listener", "--account", "*", "--permission", "accounts"
    )
    assert 0 == code, err
    proxied.process.key = key.strip()
    async with proxied.session() as session, session.get(proxied.internal + "/events") as stream:
        await stream.content.readline()
        await visitor.install(await install_link(proxied.process), connector=proxied.connector())
        async for line in stream.content:
            if line.startswith(b"data: ") and json.loads(line[6:]).get("account") == "acme":
                break

        assert "text/event-stream" == stream.content_type
        assert not stream.content.at_eof()


class Api:
    """An API that answers 401 to the tokens in `refused`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.tokens: list[str] = []
        self.refused = set[str]()

    async def answer(self, request: web.Request) -> web.Response:
        token = request.headers["Authorization"]
        self.tokens.append(token)
        self.seen.append((request.method, request.path_qs, await request.read()))
        return web.Response(status=401 if token in self.refused else 200, text="answered")


async def started(api: Api) -> tuple[web.AppRunner, str]:
    """The API's address, besides what ends it."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    runner, port = web.AppRunner(application), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
async def test_service_without_code_has_the_token_put_on_its_requests(house: House, kind: str) -> None:
    """With nginx a 401 of the API renews the token, and the request is sent once more, whole."""
    account, api, port = await house.connect(), Api(), free_port()
    runner, at = await started(api)
    [block] = re.findall(rf"```{kind}\n((?:(?!```).)*authorize-request.*?)```", CALLING, re.DOTALL)
    for old, new in (
        ("127.0.0.1:9000", f"127.0.0.1:{port}"),
        ("https://api.kit.com", at),
        ("127.0.0.1:8080", f"127.0.0.1:{house.internal_port}"),
        ("Bearer KEY", f"Bearer {house.key}"),
    ):
        assert old in block
        block = block.replace(old, new)
    here = f"http://127.0.0.1:{port}"
    command = command_line(kind, house.folder, block)
    async with proxy(command, house.folder, [port]), aiohttp.ClientSession() as session:
        plain = await session.get(here + "/v4/account?x=1", headers={"Authorization": "mine"})
        # A token that is refused within its first minute is not renewed.
        house.clock.advance(120)
        api.refused.update(api.tokens)
        again = await session.post(here + "/v4/tags", data=b"body", headers={"X-Rejected-Generation": "7"})
        await house.post("/accounts/acme/freeze")
        house.clock.advance(account.life)
        frozen = await session.get(here + "/v4/account")
    await runner.cleanup()

    assert ("mine" not in api.tokens) and all(token.startswith("Bearer ") for token in api.tokens)
    sent = {"nginx": 2, "caddy": 1}[kind]
    assert [("GET", "/v4/account?x=1", b""), *[("POST", "/v4/tags", b"body")] * sent] == api.seen
    assert {"nginx": [200, 200, 500], "caddy": [200, 401, 409]}[kind] == [
        one.status for one in (plain, again, frozen)
    ]
    assert sent == len(set(api.tokens))
