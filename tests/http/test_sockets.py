"""Which socket is whose: those that systemd holds, and those that are bound here."""

import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.config.values import TcpListen, UnixListen
from broker.errors import StartRefused
from broker.http.sockets import Sockets


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """One that systemd would hold, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[socket.socket]:
    """An admin socket of systemd's, for root alone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "admin.sock"))
        (tmp_path / "admin.sock").chmod(0o600)
        server.listen()
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_held_socket_is_known_by_its_address(held: socket.socket, host: str) -> None:
    """Whatever the unit calls it; it is used as it is, not bound a second time."""
    sockets = Sockets([held])

    taken = sockets.listening(TcpListen(host, port_of(held)), key="server.internal")
    sockets.refuse_unclaimed()

    assert held is taken


def test_connections_whose_peer_reads_nothing_end(held: socket.socket) -> None:
    """Also those that are closed here already; whoever made the listening socket."""
    sockets = Sockets([held])
    with sockets.listening(TcpListen("127.0.0.1", 0), key="server.public") as bound:
        listening = sockets.listening(TcpListen("127.0.0.1", port_of(held)), key="server.internal")
        ends = []
        for server in (bound, listening):
            with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
                ends.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    assert [30_000, 30_000] == ends


def test_what_systemd_does_not_hold_is_bound_here(held: socket.socket, tmp_path: Path) -> None:
    """An address apart, and one that only looks alike."""
    other = UnixListen(tmp_path / "api.sock", 0o660, None)

    with Sockets([held]).listening(other, key="server.internal") as bound:
        bound.listen()

        assert (str(other.path), 0o660) == (bound.getsockname(), other.path.stat().st_mode & 0o777)


def test_a_held_socket_that_no_key_names_stops_the_start(held: socket.socket) -> None:
    """Or whoever connects there would wait for ever."""
    sockets = Sockets([held])

    with pytest.raises(StartRefused, match=r"token-broker\.socket") as refused:
        sockets.refuse_unclaimed()

    assert f"systemd holds 127.0.0.1:{port_of(held)}, which no key of [server] names" in str(refused.value)


def test_a_held_unix_socket_is_known_by_its_path(admin: socket.socket, tmp_path: Path) -> None:
    """Also through a link, as /var/run is one."""
    (tmp_path / "link").symlink_to(tmp_path)
    sockets = Sockets([admin])

    taken = sockets.listening(
        UnixListen(tmp_path / "link/admin.sock", 0o600, None), key="server.admin_socket"
    )

    assert admin is taken


def test_a_held_unix_socket_may_not_let_in_more_than_configured(admin: socket.socket, tmp_path: Path) -> None:
    """SocketMode= is 0666 where a unit does not say, and everybody would be an operator."""
    path = tmp_path / "admin.sock"
    path.chmod(0o666)

    with pytest.raises(StartRefused, match="SocketMode=0600") as refused:
        Sockets([admin]).listening(UnixListen(path, 0o600, None), key="server.admin_socket")

    assert str(refused.value).startswith("server.admin_socket: ")


def test_a_held_unix_socket_may_not_be_another_groups(admin: socket.socket, tmp_path: Path) -> None:
    """The unit and the configuration must mean the same people."""
    path = tmp_path / "admin.sock"
    path.chmod(0o660)

    with pytest.raises(StartRefused, match="SocketGroup=nobody-here") as refused:
        Sockets([admin]).listening(UnixListen(path, 0o660, "nobody-here"), key="server.admin_socket")

    assert os.getgid() == path.stat().st_gid
    assert "another group than nobody-here" in str(refused.value)


def test_a_name_that_means_nothing_matches_nothing(held: socket.socket) -> None:
    """And binding it says which key to change."""
    sockets = Sockets([held])

    with pytest.raises(StartRefused, match=r"server\.internal: ") as refused:
        sockets.listening(TcpListen("192.0.2.1", port_of(held)), key="server.internal")

    assert "cannot listen on 192.0.2.1" in str(refused.value)


def test_those_who_wait_for_a_start_that_is_refused_are_told(admin: socket.socket, tmp_path: Path) -> None:
    """Each of them, and nobody at another socket."""
    sockets, clients = Sockets([admin]), [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for client in clients:
        client.settimeout(60)
        client.connect(str(tmp_path / "admin.sock"))
        client.send(b"GET /check HTTP/1.1\r\nHost: broker\r\n\r\n")

    sockets.answer_waiting(tmp_path / "elsewhere.sock", b"not for them")
    sockets.answer_waiting(tmp_path / "admin.sock", b"why")
    told = [(client.recv(99), client.recv(99)) for client in clients]
    for client in clients:
        client.close()

    assert 3 * [(b"why", b"")] == told


def test_nobody_is_told_once_there_is_a_server(admin: socket.socket, tmp_path: Path) -> None:
    """Who waits is the server's own."""
    sockets = Sockets([admin])
    sockets.all_served()

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "admin.sock"))
        sockets.answer_waiting(tmp_path / "admin.sock", b"why")

        assert [admin] == select.select([admin], [], [], 0)[0]


def test_socket_of_a_running_broker_is_not_taken(tmp_path: Path) -> None:
    """Also where its queue is full; one that a crash left is replaced."""
    listen = UnixListen(tmp_path / "admin.sock", 0o600, None)
    with Sockets().listening(listen, key="server.admin_socket") as running:
        with pytest.raises(
            StartRefused, match=r"server\.admin_socket: another broker answers at .*admin\.sock"
        ):
            Sockets().listening(listen, key="server.admin_socket")
        # What has asked already fills it.
        running.listen(0)
        with pytest.raises(StartRefused, match="another broker answers"):
            Sockets().listening(listen, key="server.admin_socket")

    with Sockets().listening(listen, key="server.admin_socket") as again:
        assert str(listen.path) == again.getsockname()


@pytest.mark.parametrize("lay", [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_socket_is_told_and_stays(tmp_path: Path, lay: Callable[[Path], object]) -> None:
    """No program has its address in use."""
    path = tmp_path / "admin.sock"
    lay(path)

    with pytest.raises(StartRefused, match=r"admin\.sock: it is no socket; move it away"):
        Sockets().listening(UnixListen(path, 0o600, None), key="server.admin_socket")

    assert os.path.lexists(path)


def test_socket_is_no_way_to_change_another_file(tmp_path: Path) -> None:
    """A link in its place is refused, and what it leads to keeps its mode."""
    victim = tmp_path / "victim"
    victim.write_text("")
    victim.chmod(0o600)
    (tmp_path / "admin.sock").symlink_to(victim)

    with pytest.raises(StartRefused, match="cannot listen"):
        Sockets().listening(UnixListen(tmp_path / "admin.sock", 0o660, None), key="server.admin_socket")

    assert 0o600 == victim.stat().st_mode & 0o777
