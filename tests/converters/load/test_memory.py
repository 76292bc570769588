"""The limit on memory, tried out in processes of their own: one that is set can only be raised so far."""

import subprocess
import sys

import pytest

GIB = 1 << 30


def soft_limit_after(*lines: str) -> int:
    code = ["import resource", "from edgekd_converters.load.memory import *", *lines]
    code.append("print(resource.getrlimit(resource.RLIMIT_DATA)[0])")
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_it_grows_with_the_weights_up_to_what_the_machine_has() -> None:
    small, larger, vast = (soft_limit_after(f"limit_memory({size})") for size in (0, 10 << 20, 1 << 50))
    assert 4 * GIB == small < larger <= vast < 1 << 50


@pytest.mark.parametrize(
    ("lines", "limit"),
    [
        (("limit_memory(0)", "allow_memory(0)"), 4 * GIB),
        (("limit_memory(1 << 20)", "allow_memory(0)"), 4 * GIB + (40 << 20)),
        (("resource.setrlimit(resource.RLIMIT_DATA, (3 << 30,) * 2)", "limit_memory(1 << 30)"), 3 * GIB),
        (("resource.setrlimit(resource.RLIMIT_DATA, (3 << 30,) * 2)", "allow_memory(1 << 30)"), 3 * GIB),
    ],
)
def test_it_is_never_lowered_nor_beyond_the_users_own(lines: tuple[str, ...], limit: int) -> None:
    assert soft_limit_after(*lines) == limit


def test_where_there_is_none_none_is_made() -> None:
    assert soft_limit_after("allow_memory(0)") == soft_limit_after()
