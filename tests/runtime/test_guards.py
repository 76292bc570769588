"""Guards: tokens, hosts, origins and rates, each as a function of headers, path and address."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd_runtime import auth, hosts, rates
from edgekd_runtime.errors import KeyFileError
from edgekd_runtime.server import client_of

TOKEN = "correct-horse-battery-staple"
INFER = "/v2/models/shop/infer"


def grown(call: Callable[[], None]) -> int:
    """By how many bytes of Python's memory ``call`` leaves more than it found."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    call()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return after - before


# --- tokens ---


@pytest.mark.parametrize("sent", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN}"])
def test_the_token_lets_in(sent: str) -> None:
    assert auth.token_guard(TOKEN)({"authorization": sent}, INFER, "10.0.0.9") is None


@pytest.mark.parametrize(
    "sent",
    [
        *(None, "", TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"),
        *(
            f"Bearer {TOKEN}, Bearer {TOKEN}",
            f"Bearer {TOKEN} ",
            f"Bearer {TOKEN.upper()}",
            "Bearer é",
            "Bearer \udcff",
        ),
    ],
)
def test_nothing_else_does(sent: str | None) -> None:
    refused = auth.token_guard(TOKEN)({} if sent is None else {"authorization": sent}, INFER, "127.0.0.1")
    assert refused is not None
    assert refused.status == 401
    assert dict(refused.headers)["www-authenticate"].startswith("Bearer")
    assert TOKEN.encode() not in refused.body


@pytest.mark.parametrize("path", ["/", "/healthz", "/v2/health/live", "/v2/health/ready"])
def test_health_and_the_page_are_open(path: str) -> None:
    assert auth.token_guard(TOKEN)({}, path, "10.0.0.9") is None


@pytest.mark.parametrize("path", ["", "//", "/metrics", "/v2", "/v2/health/live/", "/V2/health/live", "/healthz?x"])
def test_paths_beside_them_are_not(path: str) -> None:
    assert auth.token_guard(TOKEN)({}, path, "10.0.0.9")


def test_a_unix_socket_is_guarded_by_its_mode() -> None:
    assert auth.token_guard(TOKEN)({}, INFER, None) is None
    assert auth.token_guard(TOKEN)({}, INFER, "unknown") is not None


def test_a_client_that_hung_up_does_not_pass_for_a_local_one() -> None:
    """A socket that was reset has no peer any more; neither has a unix socket, where no token is asked."""
    assert client_of(None, ("127.0.0.1", 8080)) == "unknown"
    assert client_of(None, None) == "unknown"
    assert client_of(("10.0.0.9", 1234), ("127.0.0.1", 8080)) == "10.0.0.9"
    assert client_of(None, ("/run/socket", None)) is None


def test_a_token_comes_from_the_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    assert auth.read_token(None, {}) is None
    assert auth.read_token(None, {"EDGEKD_TOKEN": TOKEN}) == TOKEN
    assert auth.read_token(file, {"EDGEKD_TOKEN": "x" * 20}) == TOKEN


@pytest.mark.parametrize(
    "token", ["", "too-short", "with some spaces in it", "x" * 513, "line\nline of a token", "é" * 20]
)
def test_what_is_no_token(tmp_path: Path, token: str) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    for given_file, environment in ((file, {}), (None, {"EDGEKD_TOKEN": token})):
        with pytest.raises(KeyFileError, match="one token of 16 to 512") as caught:
            auth.read_token(given_file, environment)
        assert token == "" or token not in str(caught.value)


def test_a_token_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    for mode in (0o640, 0o604, 0o660):
        file.chmod(mode)
        with pytest.raises(KeyFileError, match=f"mode {mode:o}.*chmod 600"):
            auth.read_token(file, {})
    file.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))  # there the group's bits are the mask of an ACL
    assert auth.read_token(file, {}) == TOKEN
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "other"))
    with pytest.raises(KeyFileError):
        auth.read_token(file, {})


@pytest.mark.parametrize("path", ["none", ".", "/dev/null"])
def test_files_that_hold_no_token(path: str, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        auth.read_token(tmp_path / path, {})


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """In a process of its own, which can be ended."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    program = (
        "from pathlib import Path; from edgekd_runtime import auth, errors\n"
        f"try: auth.read_token(Path({str(tmp_path / 'pipe')!r}), {{}})\n"
        "except errors.KeyFileError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{tmp_path / 'pipe'}: not a regular file\n"


# --- hosts and origins ---


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:80", "127.9.9.9", "[::1]", "[::1]:8080", ""]
)
def test_names_of_this_machine(host: str) -> None:
    assert hosts.host_guard(True, ())({"host": host}, INFER, "127.0.0.1") is None


REBOUND = ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.1.2"]
REBOUND += ["0.0.0.0", "[::]", "localhost:8080:1", "a@localhost", "localhost, evil.example", "localhost/", "[localhost"]
REBOUND += ["2130706433", "0x7f.1", "localhost.", "evil.example#127.0.0.1", "127.0.0.1\x00.evil.example", "lo calhost"]


@pytest.mark.parametrize("host", REBOUND)
def test_a_rebound_name_is_misdirected(host: str) -> None:
    refused = hosts.host_guard(True, ())({"host": host}, INFER, "127.0.0.1")
    assert refused is not None
    assert refused.status == 421
    assert b"--allow-host" in refused.body


def test_allowed_hosts() -> None:
    guard = hosts.host_guard(True, ("Board.local", "proxy:9000"))
    for host in ("board.local", "BOARD.local:8080", "proxy:9000", "localhost"):
        assert guard({"host": host}, INFER, "127.0.0.1") is None
    for host in ("proxy", "proxy:9001", "x.board.local"):
        assert guard({"host": host}, INFER, "127.0.0.1")


def test_an_allowed_ipv6_address_is_one_at_any_port() -> None:
    guard = hosts.host_guard(True, ("[fd00::1]", "[fd00::2]:81"))
    for host in ("[fd00::1]", "[FD00::1]:8080", "[fd00::2]:81", "[::1]:8080"):
        assert guard({"host": host}, INFER, "127.0.0.1") is None
    for host in ("[fd00::2]", "[fd00::2]:8080", "[fd00::3]:81", "fd00::1"):
        assert guard({"host": host}, INFER, "127.0.0.1")


def test_a_server_for_others_takes_every_host_unless_some_are_allowed() -> None:
    assert hosts.host_guard(False, ())({"host": "board.example"}, INFER, "10.0.0.9") is None
    guard = hosts.host_guard(False, ("board.example",))
    assert guard({"host": "board.example"}, INFER, "10.0.0.9") is None
    assert guard({"host": "other.example"}, INFER, "10.0.0.9")


def test_unix_sockets_are_out_of_a_pages_reach() -> None:
    assert hosts.host_guard(True, ())({"host": "x", "origin": "http://x"}, INFER, None) is None


@pytest.mark.parametrize("loopback", [True, False])
def test_only_its_own_page_may_ask(loopback: bool) -> None:
    guard = hosts.host_guard(loopback, ())
    mine = {"host": "localhost:8080"}
    assert guard({**mine, "origin": "http://localhost:8080"}, INFER, "127.0.0.1") is None
    assert guard({**mine, "origin": "https://localhost:8080"}, INFER, "127.0.0.1") is None
    for origin in ("http://evil.example", "http://localhost:3000", "http://localhost", "null", "", "file://", "x"):
        refused = guard({**mine, "origin": origin}, INFER, "127.0.0.1")
        assert refused is not None, origin
        assert refused.status == 403


def test_origins_that_are_allowed() -> None:
    guard = hosts.host_guard(True, ("shop.example", "localhost:3000"))
    for origin in ("https://shop.example", "http://shop.example:81", "http://localhost:3000"):
        assert guard({"host": "localhost:8080", "origin": origin}, INFER, "127.0.0.1") is None
    assert guard({"host": "localhost:8080", "origin": "http://localhost:3001"}, INFER, "127.0.0.1")
    guard = hosts.host_guard(True, ("[fd00::1]", "[fd00::2]:81"))
    for origin in ("http://[fd00::1]", "https://[FD00::1]:8080", "http://[fd00::2]:81"):
        assert guard({"host": "localhost:8080", "origin": origin}, INFER, "127.0.0.1") is None
    for origin in ("http://[fd00::2]", "http://[fd00::3]:81", "http://[fd00"):
        assert guard({"host": "localhost:8080", "origin": origin}, INFER, "127.0.0.1")


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_headers_get_an_answer(host: str, origin: str) -> None:
    refused = hosts.host_guard(True, ())({"host": host, "origin": origin}, INFER, "127.0.0.1")
    assert refused is None or refused.status in (403, 421)


def test_many_hosts_take_no_memory() -> None:
    guard = hosts.host_guard(True, ())
    assert grown(lambda: [guard({"host": f"host{n}"}, INFER, "127.0.0.1") for n in range(10_000)] and None) < 50_000


# --- rates ---


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bursts_worth_then_the_rate() -> None:
    clock = Clock()
    guard = rates.rate_guard(5, clock)
    assert [guard({}, INFER, "10.0.0.9") is None for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now += 0.2
    assert [guard({}, INFER, "10.0.0.9") is None for _ in range(2)] == [True, False]
    clock.now += 100
    assert [guard({}, INFER, "10.0.0.9") is None for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.parametrize(("rate", "seconds"), [(5, "1"), (0.5, "2"), (0.01, "100")])
def test_the_refusal_says_when(rate: float, seconds: str) -> None:
    guard = rates.rate_guard(rate, Clock())
    refused = [guard({}, INFER, "10.0.0.9") for _ in range(10)][-1]
    assert refused is not None
    assert (refused.status, dict(refused.headers)) == (429, {"retry-after": seconds})


def test_waiting_that_long_is_enough() -> None:
    clock = Clock()
    guard = rates.rate_guard(0.5, clock)
    assert guard({}, INFER, "10.0.0.9") is None
    refused = guard({}, INFER, "10.0.0.9")
    assert refused is not None
    clock.now += int(dict(refused.headers)["retry-after"])
    assert guard({}, INFER, "10.0.0.9") is None


def test_each_client_has_its_own_and_a_network_is_one_client() -> None:
    guard = rates.rate_guard(1, Clock())
    assert guard({}, INFER, "2001:db8::1") is None
    assert guard({}, INFER, "2001:db8::2")
    assert guard({}, INFER, "2001:db8:0:1::1") is None
    assert guard({}, INFER, "10.0.0.9") is None
    assert guard({}, INFER, "::ffff:10.0.0.9")
    assert guard({}, INFER, "fe80::1%eth0") is None
    assert guard({}, INFER, "10.0.0.10") is None
    assert [guard({}, INFER, None) for _ in range(9)] == [None] * 9


def test_memory_is_bounded() -> None:
    guards = []

    def ask(clients: int) -> None:
        guards.append(guard := rates.rate_guard(1, Clock()))
        for n in range(clients):
            guard({}, INFER, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")

    few, many = grown(lambda: ask(5000)), grown(lambda: ask(50_000))
    assert 200_000 < many < 1.3 * few


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2)), max_size=200), st.floats(0.1, 50))
@settings(deadline=None)
def test_never_more_than_the_rate_and_one_burst(asked: list[tuple[float, int]], rate: float) -> None:
    clock = Clock()
    guard = rates.rate_guard(rate, clock)
    let_in = dict.fromkeys(range(3), 0)
    for wait, client in asked:
        clock.now += wait
        let_in[client] += guard({}, INFER, f"10.0.0.{client}") is None
    assert max(let_in.values()) <= max(1, rate) + (clock.now - 1000) * rate + 1e-6
