"""Boards are data: all of them load, and a malformed file is refused with its place and the key at fault."""

from importlib import resources

import pytest

from edgekd_targets.board import board_names, load_board, parse_board
from edgekd_targets.errors import BoardError, TargetError


def board_text(name: str = "cortex-a53") -> str:
    return resources.files("edgekd_targets").joinpath(f"boards/{name}.toml").read_text()


ARCHITECTURES = {
    "aarch64": ("arm64", "aarch64-linux-gnu", "qemu-aarch64", "asimd", []),
    "armv7l": ("armhf", "arm-linux-gnueabihf", "qemu-arm", "neon", ["numpy"]),
}


def test_the_raspberry_pi_cores_are_there() -> None:
    assert {"cortex-a7", "cortex-a53", "cortex-a72", "cortex-a76"} <= set(board_names())


@pytest.mark.parametrize("name", board_names())
def test_every_board_loads(name: str) -> None:
    board = load_board(name)
    assert board.name == name
    debian_arch, triplet, qemu, simd, debian_python = ARCHITECTURES[board.arch]
    assert (board.debian_arch, board.triplet, board.qemu) == (debian_arch, triplet, qemu)
    assert list(board.debian_python) == debian_python
    assert board.channel_multiple == 8
    assert board.qemu_cpu != "max"  # gives silently wrong results in QEMU 7.2
    assert simd in board.cpuinfo.features


def test_only_the_a76_has_dot_products() -> None:
    with_dot_product = {name for name in board_names() if "asimddp" in load_board(name).cpuinfo.features}
    assert with_dot_product == {"cortex-a76"}


def test_unknown_board_names_the_known_ones() -> None:
    with pytest.raises(BoardError, match=r"no board 'pi-9'.*cortex-a53") as caught:
        load_board("pi-9")
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, TargetError)


@pytest.mark.parametrize("name", ["../cortex-a53", "", "cortex-a53.toml"])
def test_a_name_is_not_a_path(name: str) -> None:
    with pytest.raises(BoardError, match="there is no board"):
        load_board(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cores = 4", "cores = 4\ncolour = 'red'", "here: unknown key colour"),
        ("part = 0xd03", "part = 0xd03\nbogomips = 1", r"here \[cpuinfo\]: unknown key bogomips"),
        ("cores = 4", "", "here: key cores is missing"),
        ("part = 0xd03", "", r"here \[cpuinfo\]: key part is missing"),
        ("cores = 4", "cores = '4'", "cores = '4' is not a valid value"),
        ("cores = 4", "cores = true", "cores = True is not a valid value"),
        ("cores = 4", "cores = 0", "at least 1"),
        ("debian_python = []", "debian_python = [1]", r"debian_python = \[1\] is not a valid value"),
        ("part = 0xd03", "part = -1", "part = -1 is not a valid value"),
        ('arch = "aarch64"', 'arch = ""', "arch = '' is not a valid value"),
        ("[cpuinfo]", "[cpuinfo", "not valid TOML"),
    ],
)
def test_malformed_board_is_refused(old: str, new: str, message: str) -> None:
    assert old in board_text()
    with pytest.raises(BoardError, match=message):
        parse_board(board_text().replace(old, new, 1), where="here")


def test_cpuinfo_is_what_the_kernel_writes() -> None:
    text = load_board("cortex-a76").cpuinfo.text(cores=2)
    blocks = text.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:-1]] == ["processor\t: 0", "processor\t: 1"]
    assert blocks[-1] == ""
    lines = dict(line.split(":", 1) for line in blocks[0].splitlines())
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    assert fields["CPU implementer"] == "0x41"
    assert fields["CPU architecture"] == "8"
    assert fields["CPU variant"] == "0x4"
    assert fields["CPU part"] == "0xd0b"
    assert fields["CPU revision"] == "1"
    assert "asimddp" in fields["Features"].split()
