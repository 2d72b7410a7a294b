"""schemathesis against the real process, on what each listener says of itself."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.http.relay import relay
from tests.process import Process, new_process

PLUGIN = """
[plugin]
enabled = true
[plugin.clients.kit]
client_id = "kit-plugin"
client_secret = "kit-plugin-secret"
redirect_uris = ["https://app.kit.com/apps"]
refresh_without_secret = true
[log]
level = "warning"
"""
PERMISSIONS = ("token", "refresh", "accounts", "manage", "install", "plugin", "admin")


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """How a run of schemathesis ended."""

    code: int
    output: str

    @property
    def cases(self) -> int:
        """How many requests it made up."""
        found = re.search(r"(\d+) generated", self.output)
        return int(found[1]) if found else 0


@asynccontextmanager
async def open_target(folder: Path) -> AsyncIterator[Process]:
    """A broker with every room, an account, and a caller who may do everything."""
    async with new_process(folder, extra=PLUGIN) as process:
        text = process.config.read_text()
        process.config.write_text(text.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.1"]', 1))
        await process.start()
        await process.connect("acme")
        words = [word for one in PERMISSIONS for word in ("--permission", one)]
        code, key, err = await process.run("callers", "add", "fuzzer", "--account", "*", *words)
        assert code == 0, err
        process.key = key.strip()
        yield process


async def fuzz(process: Process, listener: str, *options: str) -> Fuzzed:
    """All checks on; the key of a caller on the internal listener, nothing on the public one."""
    port = process.internal_port if listener == "internal" else process.public_port
    key = ["--header", f"Authorization: Bearer {process.key}"] if listener == "internal" else []
    async with relay(port) as asked:
        ran = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
            *("run", f"http://127.0.0.1:{asked}/openapi.json", "--url", f"http://127.0.0.1:{asked}"),
            *("--checks", "all", "--no-color", "--generation-database", "none", "--max-redirects", "0"),
            *key,
            *options,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=process.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(process.folder)},
        )
        output, _ = await ran.communicate()
    return Fuzzed(ran.returncode or 0, output.decode())
