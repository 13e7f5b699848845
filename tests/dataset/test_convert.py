"""What people have becomes chat records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.dataset import iter_records
from ftpipe.dataset.convert import convert
from ftpipe.errors import DatasetError

PAIR = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [
        ("a.jsonl", '{"prompt": "Where?\\n\\n###\\n\\n", "completion": " Here."}', "prompt/completion"),
        ("a.jsonl", '{"instruction": "Where?", "input": "", "output": "Here."}', "Alpaca"),
        (
            "a.jsonl",
            '{"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}]}',
            "ShareGPT",
        ),
        ("a.json", '[\n {"question": "Where?", "answer": "Here."}\n]', "table"),
        ("a.csv", "Question,Answer\nWhere?,Here.\n", "table"),
        ("a.tsv", "prompt\tcompletion\nWhere?\tHere.\n", "prompt/completion"),
        ("a.jsonl", json.dumps({"messages": PAIR, "id": 4}), "chat"),
    ],
)
def test_each_known_shape_becomes_a_dialogue(name: str, text: str, source: str, tmp_path: Path) -> None:
    """The same question and answer, whatever they came in."""
    path = tmp_path / name
    path.write_text(text)
    result = convert(path, tmp_path / "out.jsonl")
    assert (result.source, result.records) == (source, 1)
    assert list(iter_records(result.output)) == [(1, {"messages": PAIR})]


def test_named_columns_and_a_system_message(tmp_path: Path) -> None:
    """Where names cannot be guessed; records without an answer are counted and left out."""
    path = tmp_path / "a.csv"
    path.write_text("mail,label\nWhere?,Here.\nWhen?,\n")
    result = convert(path, tmp_path / "out.jsonl", system="Be short.", columns=("mail", "label"))
    assert (result.records, result.skipped, result.skipped_total) == (1, (2,), 1)
    assert next(iter_records(result.output))[1]["messages"] == [{"role": "system", "content": "Be short."}, *PAIR]


def test_nothing_to_convert_is_said(tmp_path: Path) -> None:
    """And no empty file stays behind."""
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(DatasetError):
        convert(path, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
