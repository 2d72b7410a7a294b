"""An OAuth server that nobody here wrote: django-oauth-toolkit in a process of its own."""

import contextlib
import socket
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .person import PASSWORD, USERNAME, approve

__all__ = ["DjangoToolkit", "TokenRequest", "Tokens", "approve", "start"]

_TABLES: dict[str, bytes] = {}
SERVER = Path(__file__).with_name("server.py")


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many refresh tokens the server has in its database."""

    live: int
    """Those it would take."""
    revoked: int
    """Those it would not, whether used, revoked or killed with their family."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One line of the server's own account of its token endpoint."""

    grant_type: str
    status: int


@dataclass(kw_only=True, slots=True)
class DjangoToolkit:
    """One server; `start` makes it, `stop` ends its process and keeps its database."""

    base_url: str
    client_id: str = "toolkit-client"
    client_secret: str = "toolkit-secret"
    username: str = USERNAME
    password: str = PASSWORD
    _folder: Path
    _redirect_uri: str
    _access_life: int
    _pkce_required: bool
    _port: socket.socket = field(repr=False)
    """Bound but never listening: it keeps the port ours while the server is away."""
    _process: subprocess.Popen[str] | None = None

    @property
    def authorize_url(self) -> str:
        return f"{self.base_url}/o/authorize/"

    @property
    def token_url(self) -> str:
        return f"{self.base_url}/o/token/"

    @property
    def revoke_url(self) -> str:
        return f"{self.base_url}/o/revoke_token/"

    @property
    def identity_url(self) -> str:
        """Answers `{"id": …, "name": …}` to a living access token and 401 to anything else."""
        return f"{self.base_url}/me"

    def restart(self) -> None:
        """End the process, if it runs, and start it on the same port with the same database."""
        self._end()
        self._begin()

    def pause(self) -> None:
        """End the process and keep the port, so that connections are refused until `restart`."""
        self._end()

    def stop(self) -> None:
        """End the process and give the port back; a second call does nothing."""
        self._end()
        self._port.close()

    def requests(self) -> list[TokenRequest]:
        """Every token request the server has answered, over all restarts, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            lines = self._token_log.read_text().splitlines()
            return [
                TokenRequest(kind, int(status)) for kind, status in (line.rsplit(" ", 1) for line in lines)
            ]
        return []

    def refresh_count(self) -> int:
        """How many refresh requests have been answered, granted or not."""
        return sum(request.grant_type == "refresh_token" for request in self.requests())

    def tokens(self) -> Tokens:
        """Count the refresh tokens of all grants."""
        with contextlib.closing(sqlite3.connect(self._database)) as database:
            # The server takes a refresh token only while its access token is there, expired or not.
            taken = "revoked IS NULL AND access_token_id IS NOT NULL"
            query = f"SELECT count(*) FILTER (WHERE {taken}), count(*) FROM oauth2_provider_refreshtoken"
            live, all_of_them = database.execute(query).fetchone()
        return Tokens(live=live, revoked=all_of_them - live)

    @property
    def _token_log(self) -> Path:
        return self._folder / "token.log"

    @property
    def _database(self) -> Path:
        return self._folder / "django.db"

    def _begin(self) -> None:
        complaints = self._folder / "django.err"
        with complaints.open("a") as stderr:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        if _pipe(self._process.stdout).readline() != "ready\n":
            self.stop()
            raise RuntimeError(f"django-oauth-toolkit did not start:\n{complaints.read_text()}")

    def _command(self) -> list[str]:
        options = {
            "port": self._port.getsockname()[1],
            "database": self._database,
            "token-log": self._token_log,
            "redirect-uri": self._redirect_uri,
            "access-life": self._access_life,
            "client-id": self.client_id,
            "client-secret": self.client_secret,
            "username": self.username,
            "password": self.password,
        }
        flags = ["--pkce-required"] if self._pkce_required else []
        # -P: the server's folder must not stand in for packages of the same name.
        words = [sys.executable, "-P", str(SERVER), *flags]
        return [*words, *(f"--{name}={value}" for name, value in options.items())]

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        process.wait()
        _pipe(process.stdin).close()
        _pipe(process.stdout).close()


def start(
    tmp_path: Path, redirect_uri: str, *, access_life: int = 3600, pkce_required: bool = True
) -> DjangoToolkit:
    """Start a server with one client and one person, and wait until it listens.

    `access_life` is in seconds. A folder that held a server before keeps its grants. Raises RuntimeError with
    what the process said when it does not start.
    """
    folder = tmp_path / "django_toolkit"
    folder.mkdir(exist_ok=True)
    port = _bound()
    server = DjangoToolkit(
        base_url=f"http://127.0.0.1:{port.getsockname()[1]}",
        _folder=folder,
        _redirect_uri=redirect_uri,
        _access_life=access_life,
        _pkce_required=pkce_required,
        _port=port,
    )
    _start_with_tables(server)
    return server


def _start_with_tables(server: DjangoToolkit) -> None:
    """To make the tables takes seconds: they are made once, and copied while nobody is connected yet."""
    if "empty" in _TABLES and not server._database.exists():
        server._database.write_bytes(_TABLES["empty"])
    server.restart()
    if "empty" not in _TABLES:
        with contextlib.closing(sqlite3.connect(server._database)) as database:
            _TABLES["empty"] = database.serialize()


def _bound() -> socket.socket:
    port = socket.socket()
    # Lets the server bind the same port beside us, as both say so and only one listens.
    port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port.bind(("127.0.0.1", 0))
    return port


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
