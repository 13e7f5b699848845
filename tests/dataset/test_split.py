"""A split is reproducible, keeps equal prompts together and labels in proportion."""

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


def test_every_line_goes_to_one_file_as_it_is(tmp_path: Path) -> None:
    """Nothing is lost, nothing rewritten, the order is kept."""
    path = write(tmp_path / "all.jsonl", [*chats(40)])
    train, held, sizes = split(path, fraction=0.1, seed=7, output_dir=tmp_path / "out")
    assert (sizes.train, sizes.validation) == (36, 4)
    lines = path.read_bytes().splitlines()
    first, second = train.read_bytes().splitlines(), held.read_bytes().splitlines()
    assert sorted([*first, *second]) == sorted(lines)
    assert first == [line for line in lines if line in first]


def test_the_same_seed_gives_the_same_split(tmp_path: Path) -> None:
    """And another seed another one."""
    path = write(tmp_path / "all.jsonl", [*chats(40)])
    again = [
        split(path, fraction=0.2, seed=seed, output_dir=tmp_path / name).validation.read_bytes()
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    ]
    assert again[0] == again[1] != again[2]


def test_equal_prompts_stay_together(tmp_path: Path) -> None:
    """So validation finds no overlap."""
    rows = [
        {"messages": [row["messages"][0], {"role": "assistant", "content": f"Answer {n}."}]}
        for row in chats(12)
        for n in range(3)
    ]
    train, held, _ = split(write(tmp_path / "all.jsonl", [*rows]), fraction=0.3, seed=3, output_dir=tmp_path)
    assert "FT703" not in validate(train, validation=held).summary.counts


def test_short_labels_keep_their_shares(tmp_path: Path) -> None:
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
    _, held, sizes = split(write(tmp_path / "all.jsonl", [*rows]), fraction=0.2, seed=3, output_dir=tmp_path)
    labels = Counter(record["messages"][1]["content"] for _, record in iter_records(held))
    assert (labels, sizes.labels) == (Counter(common=18, rare=2), 2)


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    """A fraction of one, and a file with a single prompt."""
    path = write(tmp_path / "one.jsonl", [chats(1)[0]])
    with pytest.raises(UsageError):
        split(path, fraction=1.0, seed=0, output_dir=tmp_path)
    with pytest.raises(DatasetError):
        split(path, fraction=0.5, seed=0, output_dir=tmp_path)


def test_good_lines_are_yielded_and_bad_ones_passed_over(tmp_path: Path) -> None:
    """With the line numbers of the file."""
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode() + b'\n\n[1]\nnot\n{"b": "\xe2\x80\xa8"}\r\n{"c": 3}'
    )
    assert list(iter_records(path)) == [(1, {"a": 1}), (5, {"b": "\u2028"}), (6, {"c": 3})]
