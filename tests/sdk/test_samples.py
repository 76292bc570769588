"""Data files as people have them: read right, or refused with file, line and column."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import DataError
from edgekd.samples import TextData, read_text_data, stratified_holdout


def read(path: Path, content: str | bytes, label: str | None = "label") -> TextData:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_text_data(path, "text", label)


def refusal(path: Path, content: str | bytes, label: str | None = "label") -> str:
    """The one-line message with which the file is refused, without the folder."""
    with pytest.raises(DataError) as caught:
        read(path, content, label)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(f"{path.parent}/")


def test_csv(tmp_path: Path) -> None:
    content = "id,text,label\n1,where is it,order\n2,money back,refund\n"
    data = read(tmp_path / "a.csv", content)
    assert data.texts == ("where is it", "money back")
    assert data.labels == ("order", "refund")
    assert data.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert len(data) == 2


def test_csv_quotes_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    data = read(tmp_path / "a.csv", 'text,label\n"one, ""two""\nthree",x\r\nplain,y\r\n')
    assert data.texts == ('one, "two"\nthree', "plain")
    assert data.labels == ("x", "y")


def test_csv_from_a_spreadsheet_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"\xef\xbb\xbftext,label\r\n\xe4\xbd\xa0\xe5\xa5\xbd,x\r\n").texts == ("你好",)


def test_csv_blank_lines_and_spaces_around_are_dropped(tmp_path: Path) -> None:
    data = read(tmp_path / "a.CSV", "text,label\n\n  hi  , x \n\n")
    assert (data.texts, data.labels) == (("hi",), ("x",))


def test_json_lines(tmp_path: Path) -> None:
    lines = [{"text": "a\nb", "label": 3}, {"label": -1, "text": "你好\u2028"}]
    content = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\r\n"
    for suffix in ("jsonl", "ndjson", "JSONL"):
        data = read(tmp_path / f"a.{suffix}", "\ufeff" + content)
        assert data.texts == ("a\nb", "你好")
        assert data.labels == ("3", "-1")
        assert data.classes() == ("-1", "3")


def test_a_label_column_that_is_not_asked_for_need_not_be_there(tmp_path: Path) -> None:
    data = read(tmp_path / "a.csv", "text\nhi\n", label=None)
    assert (data.texts, data.labels) == (("hi",), ())


def test_other_column_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("utterance,intent,text\nhi,greet,wrong\n")
    data = read_text_data(tmp_path / "a.csv", "utterance", "intent")
    assert (data.texts, data.labels) == (("hi",), ("greet",))


def test_a_missing_column_names_those_that_exist(tmp_path: Path) -> None:
    message = refusal(tmp_path / "a.csv", "utterance,intent\nhi,greet\n")
    assert message == "a.csv, line 2: there is no column 'text'; the columns are: utterance, intent"
    message = refusal(tmp_path / "a.jsonl", '{"text": "hi", "label": "x"}\n{"text": "hi", "intent": "x"}\n')
    assert message == "a.jsonl, line 2: there is no column 'label'; the columns are: text, intent"


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [
        ("text,label\na,x\n,y\n", 3, "text"),
        ("text,label\na,x\n   ,y\n", 3, "text"),
        ("text,label\na,x\nb,\n", 3, "label"),
        ("text,label\na,x\nb\n", 3, "label"),
        ('text,label\n"a\nb\nc",x\n,y\n', 5, "text"),
        ("text,label\n\n\na,x\n\n,y\n", 6, "text"),
    ],
    ids=["empty", "spaces", "no-label", "short-row", "after-line-breaks", "after-blank-lines"],
)
def test_an_empty_field_is_named_by_line_and_column(tmp_path: Path, content: str, line: int, column: str) -> None:
    message = refusal(tmp_path / "a.csv", content)
    assert message == f"a.csv, line {line}: column '{column}' is empty or not a text"


@pytest.mark.parametrize("value", ["", " \t", None, True, 1.5, ["a"], {"a": "b"}])
def test_a_json_text_must_be_a_text(tmp_path: Path, value: object) -> None:
    content = '{"text": "a", "label": "x"}\n\n' + json.dumps({"text": value, "label": "x"})
    assert refusal(tmp_path / "a.jsonl", content) == "a.jsonl, line 3: column 'text' is empty or not a text"


@pytest.mark.parametrize("line", ['{"text": "a"', "text", "{'text': 'a'}", "[" * 100000], ids=str.__len__)
def test_bad_json_is_named_by_line(tmp_path: Path, line: str) -> None:
    message = refusal(tmp_path / "a.jsonl", f'{{"text": "a", "label": "x"}}\n{line}\n')
    assert message.startswith("a.jsonl, line 2: not JSON: ")


@pytest.mark.parametrize("line", ['["text", "label"]', '"text"', "1", "null"])
def test_a_json_line_must_be_an_object(tmp_path: Path, line: str) -> None:
    assert refusal(tmp_path / "a.jsonl", line) == "a.jsonl, line 1: every line must be a JSON object"


def test_bad_utf8_is_named_by_its_place(tmp_path: Path) -> None:
    message = refusal(tmp_path / "a.csv", b"text,label\ncaf\xe9,x\n")
    assert message == "a.csv: not UTF-8 (byte 14); save it as UTF-8"


def test_utf16_of_a_spreadsheet_is_refused(tmp_path: Path) -> None:
    assert "not UTF-8" in refusal(tmp_path / "a.csv", "text,label\nhi,x\n".encode("utf-16"))


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.xlsx", "a", "a.csv.gz"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    assert re.search(r"must be \.csv or \.jsonl, not ", refusal(tmp_path / name, "text,label\nhi,x\n"))


@pytest.mark.parametrize(("name", "content"), [("a.csv", ""), ("a.csv", "text,label\n"), ("a.jsonl", "\n\n")])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    assert refusal(tmp_path / name, content) == f"{name}: the file holds no rows"


def test_an_open_quote_is_not_csv(tmp_path: Path) -> None:
    assert re.match(r"a\.csv, line \d: not CSV: ", refusal(tmp_path / "a.csv", 'text,label\n"never closed,x\n'))


def test_a_huge_field_is_refused(tmp_path: Path) -> None:
    assert "not CSV" in refusal(tmp_path / "a.csv", "text,label\n" + "a" * (1 << 21) + ",x\n")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_text_data(path, "text", None)


def test_half_a_character_is_refused_where_it_is_read(tmp_path: Path) -> None:
    assert "line 1" in refusal(tmp_path / "a.jsonl", '{"text": "a \\ud800 b", "label": "x"}')


def test_targets(tmp_path: Path) -> None:
    data = read(tmp_path / "a.csv", "text,label\na,y\nb,x\nc,y\n")
    targets = data.targets(("w", "x", "y"))
    assert targets.dtype == np.int32
    assert targets.tolist() == [2, 1, 2]
    with pytest.raises(DataError, match=r"'y' does not occur in the training data"):
        data.targets(("x",))


@settings(max_examples=200, deadline=None)
@given(
    targets=st.lists(st.integers(0, 6), min_size=1, max_size=120),
    fraction=st.floats(0.001, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_stratified_holdout(targets: list[int], fraction: float, seed: int) -> None:
    array = np.array(targets, np.int32)
    held = stratified_holdout(array, fraction, seed)
    assert held.shape == array.shape
    assert held.dtype == np.bool_
    assert np.array_equal(held, stratified_holdout(array, fraction, seed))
    for target in set(targets):
        size, taken = targets.count(target), int(held[array == target].sum())
        assert taken < size, "every class keeps a row to train on"
        assert (taken > 0) == (size > 1)
        if size > 1:
            assert abs(taken - fraction * size) <= 1
    other = np.bincount(array[stratified_holdout(array, fraction, seed ^ 1)], minlength=7)
    assert np.array_equal(other, np.bincount(array[held], minlength=7)), "the seed moves rows, not counts"


def test_another_seed_holds_out_other_rows() -> None:
    targets = np.zeros(1000, np.int32)
    assert not np.array_equal(stratified_holdout(targets, 0.5, 0), stratified_holdout(targets, 0.5, 1))
