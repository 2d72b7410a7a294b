"""A small HTTP server on loopback, in threads of its own, so that tests with and without asyncio can use it."""

from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(frozen=True, slots=True)
class Call:
    """A request."""

    method: str
    target: str
    headers: Message
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    headers: dict[str, str]
    body: bytes


class Server:
    """Answers by a function; keeps its port when it is stopped and started again."""

    def __init__(self, answer: Callable[[Call], Answer]) -> None:
        self._answer, self._port = answer, 0
        self._running: tuple[ThreadingHTTPServer, Thread] | None = None

    @property
    def url(self) -> str:
        """Raises RuntimeError before the first start."""
        if not self._port:
            raise RuntimeError("the FakeBroker is not started: use `with FakeBroker() as fake:` or start()")
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        listening = _Listening(self._port, self._answer)
        self._port = listening.server_address[1]
        thread = Thread(target=listening.serve_forever, args=(0.01,), name="fake-broker", daemon=True)
        thread.start()
        self._running = (listening, thread)

    def stop(self) -> None:
        if self._running is not None:
            listening, thread = self._running
            self._running = None
            listening.shutdown()
            listening.server_close()
            thread.join()


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, answer: Callable[[Call], Answer]) -> None:
        self.answer = answer
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Listening)  # noqa: S101 - http.server keeps it as its base class
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = server.answer(Call(self.command, self.path, self.headers, body))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of http.server
        """Silence: a test's output is its own."""
