"""Splits into training and validation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ftpipe.dataset import iter_records
from ftpipe.dataset.split import split
from ftpipe.errors import DatasetError, UsageError
from ftpipe.stages.validate import validate
from tests.dataset.samples import chats, write


def test_split_copies_every_line_to_one_file(tmp_path: Path) -> None:
    """Without changes and in the same order."""
    path = write(tmp_path / "all.jsonl", [*chats(40)])
    train, validation, sizes = split(path, fraction=0.1, seed=7, output_dir=tmp_path / "out")
    assert (sizes.train, sizes.validation) == (36, 4)
    lines = path.read_bytes().splitlines()
    first, second = train.read_bytes().splitlines(), validation.read_bytes().splitlines()
    assert sorted([*first, *second]) == sorted(lines)
    assert first == [line for line in lines if line in first]


def test_split_depends_only_on_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", [*chats(40)])
    outputs = [
        split(path, fraction=0.2, seed=seed, output_dir=tmp_path / name).validation.read_bytes()
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    ]
    assert outputs[0] == outputs[1] != outputs[2]


def test_split_keeps_equal_prompts_together(tmp_path: Path) -> None:
    """So there is no overlap."""
    rows = [
        {"messages": [row["messages"][0], {"role": "assistant", "content": f"Answer {n}."}]}
        for row in chats(12)
        for n in range(3)
    ]
    train, validation, _ = split(write(tmp_path / "all.jsonl", [*rows]), fraction=0.3, seed=3, output_dir=tmp_path)
    assert "FT703" not in validate(train, validation=validation).summary.counts


def test_split_keeps_label_shares(tmp_path: Path) -> None:
    """A rare label is in both files in proportion."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Case {n}"},
                {"role": "assistant", "content": "rare" if n % 10 == 0 else "common"},
            ]
        }
        for n in range(100)
    ]
    _, validation, sizes = split(write(tmp_path / "all.jsonl", [*rows]), fraction=0.2, seed=3, output_dir=tmp_path)
    labels = Counter(record["messages"][1]["content"] for _, record in iter_records(validation))
    assert (labels, sizes.labels) == (Counter(common=18, rare=2), 2)


def test_split_rejects_bad_fraction_and_single_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "one.jsonl", [chats(1)[0]])
    with pytest.raises(UsageError):
        split(path, fraction=1.0, seed=0, output_dir=tmp_path)
    with pytest.raises(DatasetError):
        split(path, fraction=0.5, seed=0, output_dir=tmp_path)


def test_iter_records_skips_invalid_lines(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode() + b'\n\n[1]\nnot\n{"b": "\xe2\x80\xa8"}\r\n{"c": 3}'
    )
    assert list(iter_records(path)) == [(1, {"a": 1}), (5, {"b": "\u2028"}), (6, {"c": 3})]
