"""The messages that systemd gets, on a real datagram socket."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.systemd.process import Notifier


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    """What listens at `$NOTIFY_SOCKET`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(60)
        yield receiver


@pytest.mark.parametrize(
    ("tell", "expected"),
    [
        (lambda notifier: notifier.ready("serving tokens"), b"READY=1\nSTATUS=serving tokens"),
        (lambda notifier: notifier.stopping(), b"STOPPING=1"),
        (lambda notifier: notifier.reloading(), b"RELOADING=1"),
        (lambda notifier: notifier.extend_timeout(15.0), b"EXTEND_TIMEOUT_USEC=15000000"),
        (lambda notifier: notifier.watchdog(), b"WATCHDOG=1"),
    ],
)
def test_each_message_is_one_datagram(
    supervisor: socket.socket, tell: Callable[[Notifier], None], expected: bytes
) -> None:
    """As sd_notify(3) writes it."""
    notifier = Notifier({"NOTIFY_SOCKET": supervisor.getsockname()})

    tell(notifier)

    assert expected == supervisor.recv(4096)


def test_a_status_cannot_smuggle_in_another_message(supervisor: socket.socket) -> None:
    """Line breaks become spaces."""
    notifier = Notifier({"NOTIFY_SOCKET": supervisor.getsockname()})

    notifier.ready("trouble\nSTOPPING=1")

    assert b"READY=1\nSTATUS=trouble STOPPING=1" == supervisor.recv(4096)


def test_an_abstract_socket_is_written_with_an_at_sign() -> None:
    """The kernel's name begins with NUL where the variable has `@`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")
        receiver.settimeout(60)
        notifier = Notifier({"NOTIFY_SOCKET": "@" + receiver.getsockname()[1:].decode()})

        notifier.ready("serving tokens")

        assert b"READY=1\nSTATUS=serving tokens" == receiver.recv(4096)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_socket_nothing_happens(environ: dict[str, str], supervisor: socket.socket) -> None:
    """In a terminal there is nobody to tell."""
    Notifier(environ).ready("serving tokens")

    supervisor.setblocking(False)
    with pytest.raises(BlockingIOError):
        supervisor.recv(4096)


def test_a_supervisor_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    """The broker goes on serving; the next message is tried again."""
    path = tmp_path / "notify"
    notifier = Notifier({"NOTIFY_SOCKET": str(path)})

    notifier.ready("nobody hears this")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(60)
        notifier.watchdog()

        assert b"WATCHDOG=1" == receiver.recv(4096)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_signs_of_life_are_due_thrice_in_the_time(environ: dict[str, str], expected: float | None) -> None:
    """Where systemd waits for them, and from this process."""
    assert expected == Notifier({"NOTIFY_SOCKET": "/run/notify", **environ}).watchdog_every


def test_a_sign_of_life_waits_for_nobody(supervisor: socket.socket) -> None:
    """The loop has better things to do than to wait for a supervisor that does not read."""
    notifier = Notifier({"NOTIFY_SOCKET": supervisor.getsockname()})

    for _ in range(2000):
        notifier.watchdog()

    assert b"WATCHDOG=1" == supervisor.recv(4096)
