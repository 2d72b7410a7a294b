"""A token endpoint that costs almost nothing: `POST /<milliseconds>` answers a new token set after that time.

`POST /<milliseconds>/<seconds>`: one that lives so long.

Run by its path, with a port. `GET /count` answers how many token requests came.
"""

import asyncio
import itertools
import json
import sys

import uvloop

LIFE = 172_800


class _Connection(asyncio.Protocol):
    requests = itertools.count()
    seen = 0

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclasses of asyncio's

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        self._received = b""
        method, path, _ = head.split(b" ", 2)
        if method == b"GET":
            self._answer(json.dumps({"count": _Connection.seen}))
            return
        _Connection.seen += 1
        number = next(self.requests)
        wait, _, life = path.strip(b"/").partition(b"/")
        tokens = {
            "access_token": f"access-{number:012d}-{'a' * 40}",
            "refresh_token": f"refresh-{number:012d}-{'r' * 40}",
            "token_type": "Bearer",
            "expires_in": int(life or LIFE),
        }
        loop = asyncio.get_running_loop()
        loop.call_later(int(wait) / 1000, self._answer, json.dumps(tokens))

    def _answer(self, body: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            self._transport.write(f"{head}\r\nConnection: close\r\n\r\n{body}".encode())
            self._transport.close()


def _length(head: bytes) -> int:
    lines = (line.lower() for line in head.split(b"\r\n"))
    return next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)


async def _serve(port: int) -> None:
    await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_serve(int(sys.argv[1])))
