"""Teachers: an encoder made here, a Keras network, both together, MiniLM itself, and the cache under all of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from edgekd.distill import teachers
from edgekd.distill.embedder import SentenceEmbedder
from edgekd.distill.teachers import (
    EmbeddingTeacher,
    HeadOptions,
    KerasTeacher,
    KerasTeacherOptions,
    Lesson,
    Teacher,
    TeacherEnsemble,
    open_teacher,
    teacher_logits,
)
from edgekd.errors import EdgekdError, TeacherError, UsageError

VOCABULARY = ["[PAD]", "[UNK]", "please", "help", "my", "parcel", "track", "order"]
VOCABULARY += ["refund", "money", "cash", "password", "account", "login"]
WIDTH = 12
TABLE = np.random.default_rng(0).normal(size=(len(VOCABULARY), WIDTH)).astype(np.float32)
TEXTS = (
    "track my parcel",
    "my order please",
    "refund my money please",
    "cash refund",
    "account password",
    "help my login please account",
)
LESSON = Lesson(TEXTS, np.array([0, 0, 1, 1, 2, 2], np.int32), 3, 0)
HEAD = HeadOptions(hidden=16, epochs=1, members=1)
TINY = KerasTeacherOptions(members=2, buckets=256, width=8, length=64, epochs=20, batch=2)


def ignore(_: str) -> None:
    pass


def write_encoder(
    folder: Path,
    *,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    output: str = "last_hidden_state",
    flat: bool = False,
) -> Path:
    """A sentence encoder that looks its tokens up in ``TABLE``; ``flat`` adds them up itself."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes = [helper.make_node("Gather", ["table", inputs[0]], ["hidden"])]
    nodes += [helper.make_node("Identity", [name], [f"unused_{name}"]) for name in inputs[1:]]
    if flat:
        nodes.append(helper.make_node("ReduceSum", ["hidden", "axis"], [output], keepdims=0))
    else:
        nodes.append(helper.make_node("Identity", ["hidden"], [output]))
    shape = ["batch", WIDTH] if flat else ["batch", "tokens", WIDTH]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def open_embedder(folder: Path) -> SentenceEmbedder:
    return SentenceEmbedder(folder / "model.onnx", folder / "tokenizer.json")


def unit(vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return vector / np.linalg.norm(vector)


def rows_of(text: str) -> npt.NDArray[np.float32]:
    """``(tokens, WIDTH)`` rows of the table."""
    return TABLE[[VOCABULARY.index(word) if word in VOCABULARY else 1 for word in text.split()]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("teacher") / "encoder")


@pytest.fixture
def embedding_teacher(encoder: Path) -> EmbeddingTeacher:
    return EmbeddingTeacher("encoder", open_embedder(encoder), HEAD)


def test_the_mean_of_real_tokens_of_unit_length(encoder: Path, own_cache: Path) -> None:
    """Texts of all lengths share a batch; padding must not count."""
    vectors, found = open_embedder(encoder).embed(TEXTS, ignore)
    assert not found
    assert vectors.dtype == np.float32
    wanted = [unit(rows_of(text).mean(0)) for text in TEXTS]
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)


def test_embeddings_are_cached_by_weights_and_texts(encoder: Path, own_cache: Path, tmp_path: Path) -> None:
    embedder = open_embedder(encoder)
    first, _ = embedder.embed(TEXTS, ignore)
    again, found = embedder.embed(TEXTS, ignore)
    assert found
    np.testing.assert_array_equal(first, again)
    assert not embedder.embed(TEXTS[:-1], ignore)[1]
    assert not open_embedder(write_encoder(tmp_path / "other", output="hidden_states")).embed(TEXTS, ignore)[1]


def test_long_texts_are_cut(encoder: Path, own_cache: Path) -> None:
    vectors, _ = open_embedder(encoder).embed([" ".join(["cash"] * 128 + ["login"] * 500)], ignore)
    np.testing.assert_allclose(vectors[0], unit(rows_of("cash")[0]), atol=1e-5)


def test_one_text_alone_gives_the_same(encoder: Path, own_cache: Path) -> None:
    embedder = open_embedder(encoder)
    vectors, _ = embedder.embed(TEXTS, ignore)
    np.testing.assert_allclose(embedder.embed_one(TEXTS[3]), vectors[3], atol=1e-6)


def test_an_output_named_sentence_embedding_is_taken_as_it_is(tmp_path: Path, own_cache: Path) -> None:
    folder = write_encoder(tmp_path / "flat", inputs=["input_ids"], output="sentence_embedding", flat=True)
    vectors, _ = open_embedder(folder).embed(["cash refund"], ignore)
    np.testing.assert_allclose(vectors[0], unit(rows_of("cash refund").sum(0)), atol=1e-6)


def test_token_types_are_given_where_they_are_wanted(tmp_path: Path, own_cache: Path) -> None:
    folder = write_encoder(tmp_path / "types", inputs=["input_ids", "attention_mask", "token_type_ids"])
    assert open_embedder(folder).embed(TEXTS, ignore)[0].shape == (len(TEXTS), WIDTH)


def test_a_model_that_is_no_sentence_encoder_is_refused(tmp_path: Path, own_cache: Path) -> None:
    with pytest.raises(TeacherError, match="'pixel_values'"):
        open_embedder(write_encoder(tmp_path / "image", inputs=["input_ids", "pixel_values"]))
    flat = open_embedder(write_encoder(tmp_path / "flat", output="scores", flat=True))
    with pytest.raises(TeacherError, match=r"shape \(1, 12\)"):
        flat.embed(["cash"], ignore)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x08\x07garbage"], ids=["missing", "empty", "json", "garbage"])
def test_a_teacher_folder_with_a_bad_file_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = write_encoder(tmp_path / "teacher")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UsageError if content is None else TeacherError) as caught:
        open_teacher(str(folder))
    assert caught.value.exit_code == (2 if content is None else 1)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_embedding_teacher_learns_the_lesson(encoder: Path, own_cache: Path) -> None:
    teacher = EmbeddingTeacher(
        "encoder", open_embedder(encoder), HeadOptions(hidden=64, epochs=30, batch=6, learning_rate=1e-2, members=2)
    )
    logits = teacher.compute(LESSON, (*TEXTS, "track order", "money refund"), ignore)
    assert logits.shape == (8, 3)
    assert logits.dtype == np.float32
    assert logits.argmax(1).tolist() == [*LESSON.targets, 0, 1]


def test_a_keras_teacher_learns_the_lesson() -> None:
    logits = KerasTeacher(TINY).compute(LESSON, (*TEXTS, "track the order"), ignore)
    assert logits.shape == (7, 3)
    assert logits.argmax(1).tolist() == [*LESSON.targets, 0]


def test_the_members_of_a_keras_teacher_are_averaged() -> None:
    alone = [
        KerasTeacher(KerasTeacherOptions(members=1, buckets=256, width=8, length=64, epochs=2)).compute(
            Lesson(LESSON.texts, LESSON.targets, 3, seed), TEXTS, ignore
        )
        for seed in (5, 6)
    ]
    both = KerasTeacher(KerasTeacherOptions(members=2, buckets=256, width=8, length=64, epochs=2))
    together = both.compute(Lesson(LESSON.texts, LESSON.targets, 3, 5), TEXTS, ignore)
    assert np.abs(alone[0] - alone[1]).max() > 1e-4
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-6)


def test_a_keras_teacher_takes_rows_as_long_as_the_student_takes() -> None:
    long = Lesson((TEXTS[0] * 400, *TEXTS[1:]), LESSON.targets, 3, 0)
    options = KerasTeacherOptions(members=1, buckets=256, width=8, length=64, epochs=1)
    assert KerasTeacher(options).compute(long, long.texts, ignore).shape == (6, 3)


class Fixed:
    """A teacher that knows its logits and counts how often it is asked."""

    def __init__(self, name: str, logits: npt.NDArray[np.float32]) -> None:
        self.name, self.logits, self.calls = name, logits, 0

    def describe(self) -> dict[str, Any]:
        return {"kind": self.name}

    def compute(self, lesson: Lesson, texts: Sequence[str], advance: Callable[[str], None]) -> npt.NDArray[np.float32]:
        self.calls += 1
        return self.logits

    def footprint(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError


def test_an_ensemble_is_the_mean_of_log_probabilities(own_cache: Path) -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)
    flat = np.full((2, 3), 1 / 3, np.float32)
    # Logits may be shifted and are not comparable between teachers; log-probabilities are.
    members = [Fixed("a", np.log(probabilities) + 100), Fixed("b", np.log(flat) - 7)]
    ensemble = TeacherEnsemble(members)
    assert ensemble.name == "a+b"
    got = ensemble.compute(LESSON, ["x", "y"], ignore)
    np.testing.assert_allclose(got, (np.log(probabilities) + np.log(flat)) / 2, atol=1e-4)
    ensemble.compute(LESSON, ["x", "y"], ignore)
    assert [member.calls for member in members] == [1, 1], "each member has its own place in the cache"


@pytest.mark.parametrize("kind", ["embedding", "keras"])
def test_the_second_time_nothing_is_computed(
    kind: str, embedding_teacher: EmbeddingTeacher, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = KerasTeacherOptions(members=1, buckets=256, width=8, length=64, epochs=1)
    teacher: Teacher = embedding_teacher if kind == "embedding" else KerasTeacher(quick)
    first, found = teacher_logits(teacher, LESSON, TEXTS, ignore)
    assert not found

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(type(teacher), "compute", fail)
    again, found = teacher_logits(teacher, LESSON, TEXTS, ignore)
    assert found
    np.testing.assert_array_equal(first, again)
    targets = LESSON.targets[::-1].copy()
    for lesson, texts in (
        (Lesson(TEXTS, LESSON.targets, 3, 1), TEXTS),
        (Lesson(TEXTS, targets, 3, 0), TEXTS),
        (Lesson(TEXTS, LESSON.targets, 4, 0), TEXTS),
        (LESSON, TEXTS[::-1]),
    ):
        with pytest.raises(AssertionError, match="computed again"):
            teacher_logits(teacher, lesson, texts, ignore)


def test_other_options_are_another_teacher(encoder: Path) -> None:
    embedder = open_embedder(encoder)
    described = [
        EmbeddingTeacher("a", embedder, HEAD).describe(),
        EmbeddingTeacher("a", embedder, HeadOptions(hidden=16, epochs=2, members=1)).describe(),
        KerasTeacher(TINY).describe(),
        KerasTeacher().describe(),
    ]
    assert all(described[i] != described[j] for i in range(4) for j in range(i))


def test_the_same_seed_gives_the_same_logits(embedding_teacher: EmbeddingTeacher, own_cache: Path) -> None:
    first, again = (embedding_teacher.compute(LESSON, TEXTS, ignore) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = embedding_teacher.compute(Lesson(TEXTS, LESSON.targets, 3, 1), TEXTS, ignore)
    assert np.abs(first - other).max() > 1e-4


def test_footprints_are_measured(embedding_teacher: EmbeddingTeacher, encoder: Path, own_cache: Path) -> None:
    encoder_cost = embedding_teacher.footprint(TEXTS)
    assert encoder_cost.weights_bytes == (encoder / "model.onnx").stat().st_size
    keras_cost = KerasTeacher(TINY).footprint(TEXTS)
    assert keras_cost.weights_bytes == pytest.approx(2 * 4 * 256 * 8, rel=0.2)
    both = TeacherEnsemble([embedding_teacher, KerasTeacher(TINY)]).footprint(TEXTS)
    assert both.weights_bytes == encoder_cost.weights_bytes + keras_cost.weights_bytes
    for cost in (encoder_cost, keras_cost, both):
        assert 0 < cost.answer_ms < 5000


def test_what_the_words_of_the_option_open(encoder: Path) -> None:
    assert open_teacher("none") is None
    assert isinstance(open_teacher("keras"), KerasTeacher)
    folder = open_teacher(str(encoder))
    assert isinstance(folder, EmbeddingTeacher)
    assert folder.name == "encoder"
    both = open_teacher(f"keras+{encoder}")
    assert isinstance(both, TeacherEnsemble)
    assert both.name == "keras+encoder"
    assert len(both.describe()["members"]) == 2


def test_a_folder_may_have_a_plus_in_its_name(tmp_path: Path) -> None:
    teacher = open_teacher(str(write_encoder(tmp_path / "mini+lm")))
    assert teacher is not None
    assert teacher.name == "mini+lm"


@pytest.mark.parametrize("word", ["nosuch", "keras+nosuch", "keras+", "", "none+keras", "KERAS"])
def test_unknown_words_are_usage_errors(word: str) -> None:
    try:
        teacher = open_teacher(word)
    except EdgekdError as error:
        assert isinstance(error, UsageError)
        assert "\n" not in str(error)
    else:
        pytest.fail(f"{word!r} opened {teacher}")


def test_an_ensemble_through_the_command_line(
    cli: Callable[..., Result],
    fails: Callable[..., str],
    task: Any,
    small: list[str],
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        teachers, "HeadOptions", lambda: HeadOptions(64, epochs=15, batch=16, learning_rate=1e-2, members=1)
    )
    monkeypatch.chdir(tmp_path)
    write_encoder(tmp_path / "a")
    write_encoder(tmp_path / "b", inputs=["input_ids"], output="sentence_embedding", flat=True)
    arguments = ["distill", "--data", task.train, "--eval", task.eval, *small, "--epochs", 2, "--output", "student"]
    result = cli(*arguments, "--teacher", "a+b")
    assert result.exit_code == 0, result.output
    assert "from the cache" not in result.stdout
    report = json.loads((tmp_path / "student/distill.json").read_text("utf-8"))
    teacher = report["teacher"]
    assert (report["options"]["teacher"], teacher["name"], teacher["kind"]) == ("a+b", "a+b", "ensemble")
    assert [member["kind"] for member in teacher["members"]] == ["sentence-embedding"] * 2
    assert teacher["members"][0]["weights"] != teacher["members"][1]["weights"]
    assert teacher["weights_bytes"] == sum((tmp_path / name / "model.onnx").stat().st_size for name in "ab")
    assert report["accuracy"]["teacher_eval"] > 0.5
    first, second, mean = sorted((np.load(path) for path in own_cache.glob("teacher-logits/*.npy")), key=is_mean)
    assert mean.shape == (120, 3)
    np.testing.assert_allclose(mean, (log_softmax(first) + log_softmax(second)) / 2, atol=1e-5)
    assert "from the cache" in cli(*arguments, "--teacher", "a+b").stdout
    assert "--teacher 'nowhere'" in fails(2, *arguments, "--teacher", "a+nowhere")


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def is_mean(logits: npt.NDArray[Any]) -> bool:
    """Means of log-probabilities lie below 0, which logits of a head do not all."""
    return bool((logits < 0).all())


def test_minilm_itself(own_cache: Path) -> None:
    """The real teacher of the extra ``minilm``: alike sentences are alike."""
    teacher = open_teacher("minilm")
    assert isinstance(teacher, EmbeddingTeacher)
    embedder = teacher._embedder
    vectors, _ = embedder.embed(["Where is my parcel?", "How do I track my package?", "I like green tea."], ignore)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > 0.3 > vectors[0] @ vectors[2]
    quick = EmbeddingTeacher("minilm", embedder, HeadOptions(hidden=64, epochs=30, batch=6, members=1))
    logits = quick.compute(LESSON, (*TEXTS, "has the courier brought the package", "reset my sign-in"), ignore)
    assert logits.argmax(1).tolist() == [*LESSON.targets, 0, 2]
