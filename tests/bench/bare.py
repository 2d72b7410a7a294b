"""The bare aiohttp server that the broker is measured against: one route, and the very bytes of the broker's answer.

Run by its path, with a port and a file that holds the answer as JSON: `{"headers": {…}, "body": "…"}`.
"""

import asyncio
import json
import sys
from pathlib import Path

import uvloop
from aiohttp import web


async def _serve(port: int, answer: Path) -> None:
    told = json.loads(answer.read_text())
    body, headers = told["body"].encode(), told["headers"]

    async def token(_: web.Request) -> web.Response:
        return web.Response(body=body, headers=headers)

    application = web.Application()
    application.add_routes([web.get("/token/{account}", token)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
