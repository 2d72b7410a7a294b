"""The sockets that systemd passes, in processes that get them as from systemd."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

TAKE = """
import os
from broker.errors import StartRefused
from broker.systemd.process import passed_sockets
try:
    passed = passed_sockets(os.environ)
except StartRefused as exc:
    print(exc)
else:
    print(*((one.getsockname()[1], one.get_inheritable()) for one in passed))
    for one in passed:
        one.close()
"""
# A shell becomes the process, because only that knows its own number in advance.
AS_SYSTEMD = 'export LISTEN_PID=${WHOSE:-$$}; exec "$@" 3<&$FIRST 4<&$SECOND'


@pytest.fixture
def servers() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two listening sockets."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        yield one, other


def told(one: socket.socket, other: socket.socket, environ: Mapping[str, str]) -> str:
    """What a process says of the sockets it was passed."""
    # Numbers that the shell does not overwrite.
    numbers = [os.dup2(one.fileno(), 40), os.dup2(other.fileno(), 41)]
    try:
        done = subprocess.run(
            ["bash", "-c", AS_SYSTEMD, "sh", sys.executable, "-W", "error", "-c", TAKE],
            check=True,
            capture_output=True,
            text=True,
            pass_fds=numbers,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(Path(__file__).parent.parent.parent),
                "FIRST": "40",
                "SECOND": "41",
                **environ,
            },
        )
    finally:
        for number in numbers:
            os.close(number)
    return done.stdout.strip() + done.stderr


def test_all_are_taken_in_order(servers: tuple[socket.socket, socket.socket]) -> None:
    """And kept from the commands that the broker runs."""
    ports = [one.getsockname()[1] for one in servers]

    assert f"({ports[0]}, False) ({ports[1]}, False)" == told(*servers, {"LISTEN_FDS": "2"})


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_FDS": ""}, {"LISTEN_FDS": "-1"}, {"LISTEN_FDS": "2", "WHOSE": "1"}]
)
def test_what_was_meant_for_nobody_or_another_is_left_alone(
    servers: tuple[socket.socket, socket.socket], environ: dict[str, str]
) -> None:
    """A process that inherits the variables was not passed the sockets."""
    assert "" == told(*servers, environ)


def test_what_does_not_listen_stops_the_start() -> None:
    """With what is wrong in the unit."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as mute:
        said = told(server, mute, {"LISTEN_FDS": "2"})

    assert "file descriptor 4, which cannot be used (it does not listen)" in said


def test_what_is_no_socket_stops_the_start(servers: tuple[socket.socket, socket.socket]) -> None:
    """Such as one more than there is."""
    assert "file descriptor 5, which cannot be used" in told(*servers, {"LISTEN_FDS": "3"})
