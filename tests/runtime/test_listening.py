"""Addresses and sockets before there is a server on them."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from edgekd_runtime import hosts, listening
from edgekd_runtime.errors import ServeError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert hosts.is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example.org", "", "127.0.0.1.example.org"]
)
def test_not_loopback(host: str) -> None:
    assert not hosts.is_loopback(host)


def test_tcp_port_zero_takes_a_free_one() -> None:
    with listening.listen_tcp("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        assert port > 0
        socket.create_connection(("127.0.0.1", port), 5).close()
        with pytest.raises(ServeError, match=f"port {port}: .*take another --port"):
            listening.listen_tcp("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "256.1.1.1", "203.0.113.7", "a" * 300, "a..b"])
def test_hosts_that_are_not_ours(host: str) -> None:
    with pytest.raises(ServeError, match="cannot listen on") as caught:
        listening.listen_tcp(host, 0)
    assert "\n" not in str(caught.value)


def test_unix_socket_is_for_user_and_group(tmp_path: Path) -> None:
    with listening.listen_unix(tmp_path / "s"):
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o660
        with pytest.raises(ServeError, match="another server listens"):
            listening.listen_unix(tmp_path / "s")


def test_a_dead_servers_socket_is_replaced(tmp_path: Path) -> None:
    listening.listen_unix(tmp_path / "s").close()
    assert (tmp_path / "s").exists()
    with (
        listening.listen_unix(tmp_path / "s"),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
    ):
        client.connect(str(tmp_path / "s"))


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_what_is_no_socket_is_kept(tmp_path: Path, make: object) -> None:
    path = tmp_path / "s"
    make(path)  # type: ignore[operator]
    with pytest.raises(ServeError, match="is not a socket"):
        listening.listen_unix(path)
    assert path.exists()


@pytest.mark.parametrize("name", ["missing/s", "x" * 200])
def test_paths_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ServeError, match="cannot listen on unix socket") as caught:
        listening.listen_unix(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to(tmp_path / "gone")
    with pytest.raises(ServeError):
        listening.listen_unix(tmp_path / "s")


def test_a_server_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    with listening.listen_unix(tmp_path / "s"), contextlib.ExitStack() as stack:
        with pytest.raises(BlockingIOError):  # until nobody more fits into its line
            for _ in range(10_000):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(tmp_path / "s"))
        with pytest.raises(ServeError, match="another server listens"):
            listening.listen_unix(tmp_path / "s")


def test_a_successors_socket_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listening.listen_unix(path).close()
    ending = listening.SocketFile.at(path)
    with listening.listen_unix(path):  # the next server, while the one before ends
        successor = listening.SocketFile.at(path)
        path.chmod(0o666)
        ending.remove()
        assert path.exists()
        successor.remove()
        assert not path.exists()
    successor.remove()


def test_what_cannot_all_be_listened_to_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for ipc, option in ((tmp_path / "file", "--ipc"), (tmp_path / "s", "--ipc"), (tmp_path / "none" / "s", "ipc")):
        with pytest.raises(ServeError, match=option if ipc.parent == tmp_path else "none/s"):
            listening.listen([], "127.0.0.1", 0, tmp_path / "s", ipc, tls=False)
        assert not (tmp_path / "s").exists()
