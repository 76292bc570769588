"""PyTorch's files: what is opened, under which names, and what is refused without being run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd_converters.errors import LoadError
from edgekd_converters.load import torch as front_end
from edgekd_converters.load import torch_guard
from edgekd_converters.load.equivalence import compare
from edgekd_converters.load.source import LoadOptions, Source

torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
pytest.importorskip("onnxscript", reason="needs the extra 'torch'")


class Net(torch.nn.Module):  # type: ignore[misc]
    """Two inputs, two outputs with names, a batch norm whose statistics matter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4)
        self.dense, self.dropout = torch.nn.Linear(4, 5), torch.nn.Dropout(0.5)
        torch.nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, image: Any, gain: Any) -> dict[str, Any]:
        x = torch.relu(self.norm(self.conv(image))) * gain
        return {"scores": self.dense(self.dropout(x.mean((2, 3)))), "map": x}


SHAPES = {"image": (1, 3, 8, 6), "gain": (1, 4, 1, 1)}
EXAMPLES = tuple(torch.zeros(shape) for shape in SHAPES.values())


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def program_file(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "net.pt2"
    torch.export.save(torch.export.export(net, EXAMPLES), path)
    return path


@pytest.fixture(scope="module")
def source(program_file: Path) -> Source:
    return front_end.open_source(program_file, LoadOptions())


def columns(rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(rows)
    return {name: rng.normal(size=(rows, *shape[1:])).astype(np.float32) for name, shape in SHAPES.items()}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(LoadError) as caught:
        front_end.open_source(path, LoadOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_order_and_layout_of_a_program(source: Source) -> None:
    assert source.format == "pt2"
    assert list(source.graph.signature.inputs) == ["image", "gain"]
    assert list(source.graph.signature.outputs) == ["scores", "map"]
    assert source.layouts["image"] == source.layouts["map"] == (0, 2, 3, 1)


def test_it_computes_what_pytorch_does(source: Source, net: Any) -> None:
    given = columns(5)
    made = source.run(given)
    with torch.no_grad():
        wanted = net(*(torch.from_numpy(given[name]) for name in SHAPES))
    for name, value in wanted.items():
        np.testing.assert_allclose(made[name], value, rtol=1e-5, atol=1e-6)
    assert compare(source.graph, source.layouts, given, source.run).max_difference < 1e-5


def test_layers_come_in_order_under_the_modules_names(source: Source, net: Any) -> None:
    assert source.layers is not None
    feed = columns(1)
    layers = list(source.layers(feed))
    names = [layer.name.partition(":")[0] for layer in layers]
    assert [name for name in names if name in ("conv", "norm", "dense")] == ["conv", "norm", "dense"]
    conv = next(layer for layer in layers if layer.name.startswith("conv:"))
    with torch.no_grad():
        np.testing.assert_allclose(conv.value, net.conv(torch.from_numpy(feed["image"])), rtol=1e-5, atol=1e-6)


def test_an_open_batch(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "open.pt2")
    opened = front_end.open_source(tmp_path / "open.pt2", LoadOptions())
    given = {"input": np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)}
    assert opened.run(given)["output"].shape == (70, 2)
    assert compare(opened.graph, opened.layouts, given, opened.run).max_difference < 1e-5


def test_a_fixed_batch_of_more_is_refused(net: Any, tmp_path: Path) -> None:
    torch.export.save(
        torch.export.export(net, (torch.zeros(2, 3, 8, 6), torch.zeros(2, 4, 1, 1))), tmp_path / "two.pt2"
    )
    assert "'image' has a fixed batch of 2" in refusal(tmp_path / "two.pt2")


def test_training_mode_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Net().train(), EXAMPLES), tmp_path / "t.pt2")
    assert "was exported in training mode" in refusal(tmp_path / "t.pt2")


def test_a_module_in_memory_keeps_its_mode() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(4, 2))
    opened = front_end.load_module(module, (torch.zeros(1, 4),))
    assert module.training
    assert (opened.format, list(opened.graph.signature.outputs)) == ("torch", ["output"])
    given = {"input": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)}
    assert compare(opened.graph, opened.layouts, given, opened.run).max_difference < 1e-5


class Bomb:
    """Leaves a file where it was unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_pickled_module_is_named_and_not_unpickled(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    net.bomb = Bomb(tmp_path / "ran")
    for legacy in (False, True):
        torch.save(net, tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
        message = refusal(tmp_path / "net.pt")
        assert "a pickled module (pathlib.Path" in message
        assert "torch.export.save(" in message
    assert not (tmp_path / "ran").exists()


def test_weights_alone_are_told_even_when_trusted(net: Any, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    for trust in (False, True):
        assert "holds weights alone (a state_dict)" in refusal(tmp_path / "weights.pt", trust=trust)


def test_torchscript_is_refused_and_opened_with_trust(net: Any, tmp_path: Path) -> None:
    torch.jit.trace(net, EXAMPLES, strict=False).save(tmp_path / "script.pt")
    assert "holds TorchScript, which is code; allow it with --trust" in refusal(tmp_path / "script.pt")
    opened = front_end.open_source(tmp_path / "script.pt", LoadOptions(SHAPES, trust=True))
    assert list(opened.graph.signature.inputs) == ["image", "gain"]
    assert compare(opened.graph, opened.layouts, columns(2), opened.run).max_difference < 1e-5


def test_a_trusted_module_needs_its_sizes(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2)), tmp_path / "net.pt")
    assert "--shape input=1,…" in refusal(tmp_path / "net.pt", trust=True)
    opened = front_end.open_source(tmp_path / "net.pt", LoadOptions({"input": (1, 3)}, trust=True))
    given = {"input": np.ones((2, 3), np.float32)}
    assert compare(opened.graph, opened.layouts, given, opened.run).max_difference < 1e-6


def test_a_trusted_pickle_of_something_else(tmp_path: Path) -> None:
    torch.save({"model": Bomb(tmp_path / "ran")}, tmp_path / "dict.pt")
    assert "holds a dict, not a torch.nn.Module" in refusal(tmp_path / "dict.pt", trust=True)


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The archive with ``change(name, content)`` for every entry; None leaves it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def in_json(name: str, old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(entry: str, content: bytes) -> bytes:
        if not entry.endswith(name):
            return content
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def test_nothing_in_a_program_is_unpickled(program_file: Path, tmp_path: Path) -> None:
    """Neither the sample inputs, which PyTorch would unpickle, nor weights that are said to be pickled."""
    mark = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(((Bomb(mark),), {}), buffer)

    def bombed(name: str, content: bytes) -> bytes:
        return buffer.getvalue() if name.endswith("sample_inputs/model.pt") else content

    assert "cannot load it" in refusal(rewritten(program_file, tmp_path / "a.pt2", bombed))
    pickled = in_json("weights_config.json", '"use_pickle": false', '"use_pickle": true')
    assert "has a pickled tensor" in refusal(rewritten(program_file, tmp_path / "b.pt2", pickled))

    def opaque(name: str, content: bytes) -> bytes:
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        return json.dumps({"config": {"x": entry}}).encode() if name.endswith("constants_config.json") else content

    assert "has the pickled object 'opaque_obj_0'" in refusal(rewritten(program_file, tmp_path / "c.pt2", opaque))
    assert not mark.exists()


def test_sizes_are_not_evaluated(net: Any, tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    examples = (torch.zeros(2, 3, 8, 6), torch.zeros(2, 4, 1, 1))
    program = torch.export.export(net, examples, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, tmp_path / "open.pt2")
    with zipfile.ZipFile(tmp_path / "open.pt2") as archive:
        model = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("models/model.json"))
    symbol = model.partition('"expr_str": "')[2].partition('"')[0]
    for evil in ("__import__('os').getpid()", "(lambda: 1)()", "Symbol('s0').func", "exec('1')", "[s0 for s0 in ()]"):
        change = in_json("models/model.json", symbol, evil)
        assert "where a size belongs" in refusal(rewritten(tmp_path / "open.pt2", tmp_path / "evil.pt2", change))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net/data/aotinductor/model/a.so", b"", "is compiled code"),
        ("../escape", b"", "leads out of the archive"),
        ("net/MODELS/model.json", b"{}", "two entries of one name"),
        ("net/extra.json", b"{", "is damaged"),
    ],
)
def test_an_archive_with_something_more(
    program_file: Path, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = rewritten(program_file, tmp_path / "more.pt2", lambda _, content: content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, content)
    assert words in refusal(path)


def test_a_zip_bomb(program_file: Path, tmp_path: Path) -> None:
    path = rewritten(program_file, tmp_path / "bomb.pt2", lambda _, content: content)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/weights/weight_99", bytes(1 << 24))
    assert "declares" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04.", b"text"])
def test_files_of_no_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    assert "not a file of PyTorch's, or a damaged one" in refusal(tmp_path / "x.pt")


def test_a_program_cut_short(program_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.pt2").write_bytes(program_file.read_bytes()[:-200])
    assert "is damaged or cut short" in refusal(tmp_path / "cut.pt2")


def test_damaged_weights_and_model(program_file: Path, tmp_path: Path) -> None:
    gone = rewritten(program_file, tmp_path / "a.pt2", lambda name, c: None if name.endswith("weight_0") else c)
    assert "cannot load it" in refusal(gone)
    changed = rewritten(program_file, tmp_path / "b.pt2", in_json("models/model.json", "aten.conv2d", "aten.conv9d"))
    assert "b.pt2" in refusal(changed)


def test_without_pytorch(program_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(front_end.importlib, "import_module", missing)
    assert refusal(program_file) == "onnxscript is missing; this needs PyTorch: pip install 'edgekd[torch]'"


def test_a_pickle_that_only_looks_like_weights_is_not_unpickled(tmp_path: Path) -> None:
    """Names behind memo references are not seen by the guard; so what it calls weights is refused as well."""
    evil = pickle.dumps(Bomb(tmp_path / "ran"), protocol=4)
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", evil)
        archive.writestr("evil/version", b"3")
    assert torch_guard.kind_of(tmp_path / "evil.pt") == "module"
    refusal(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
