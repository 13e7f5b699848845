"""Reading rows, and the order in which they are trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import DatasetError
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, ChatTokenizer, Example
from ftpipe.training.batching import (
    BadRows,
    common_prefix_length,
    epoch_batches,
    micro_batches,
    read_rows,
    write_bad_rows,
)
from tests.training.tiny_model import chat, tiny_tokenizer, write_rows


def example(*ids: int, prompt: int) -> Example:
    """An example whose first ``prompt`` tokens are not trained."""
    return Example(ids, (*[IGNORE_INDEX] * prompt, *ids[prompt:]))


def test_epoch_batches_contain_each_example_once() -> None:
    """No row is lost or doubled by bucketing."""
    order = epoch_batches([i % 7 for i in range(50)], 4, seed=1, epoch=0)
    assert sorted(index for batch in order for index in batch) == list(range(50))
    assert [len(batch) for batch in order].count(4) == 12


def test_epoch_batches_depend_on_seed_and_epoch_only() -> None:
    """The same seed gives the same order, another epoch another one."""
    lengths = [i % 13 for i in range(40)]
    first = epoch_batches(lengths, 4, seed=1, epoch=0)
    assert first == epoch_batches(lengths, 4, seed=1, epoch=0)
    assert first != epoch_batches(lengths, 4, seed=1, epoch=1)
    assert first != epoch_batches(lengths, 4, seed=2, epoch=0)


def test_epoch_batches_group_similar_lengths() -> None:
    """Bucketing pads less than half of what a plain shuffle pads."""
    lengths = [(i * 37) % 101 + 1 for i in range(64)]
    batches = epoch_batches(lengths, 4, seed=1, epoch=0)
    padding = sum(max(lengths[i] for i in batch) - lengths[j] for batch in batches for j in batch)
    assert padding < 0.1 * sum(lengths)


def test_micro_batches_respect_token_limit() -> None:
    """No part has more padded tokens than the limit, and a long row stands alone."""
    rows = [example(*range(size), prompt=1) for size in (5, 50, 6, 7)]
    parts = micro_batches(rows, 21)
    assert [[len(row.ids) for row in part] for part in parts] == [[5, 6, 7], [50]]


def test_common_prefix_of_equal_beginnings() -> None:
    """All that is before the first trained prediction and equal in every row."""
    rows = [example(*range(10), last, 9, prompt=11) for last in (20, 21)]
    assert common_prefix_length(rows) == 10
    assert common_prefix_length(rows[:1]) == 0


def test_common_prefix_excludes_trained_predictions() -> None:
    """Equal answers at the start of equal rows are still trained in every row."""
    rows = [example(*range(12), prompt=10) for _ in range(2)]
    assert common_prefix_length(rows) == 9


def test_common_prefix_that_is_short_is_ignored() -> None:
    """Under eight tokens nothing is shared."""
    rows = [example(1, 2, 3, last, 5, prompt=4) for last in (20, 21)]
    assert common_prefix_length(rows) == 0


def test_read_rows_names_all_bad_rows(tmp_path: Path) -> None:
    """Line and reason of each row that cannot be trained on."""
    data = write_rows(tmp_path / "d.jsonl", [chat("a", "b"), chat("a", "b", weights=[0]), {"messages": []}])
    with pytest.raises(DatasetError, match=r"line 2: no assistant.*line 3: no assistant"):
        read_rows(data, ChatTokenizer.of(tiny_tokenizer()), limit=100)


def test_read_rows_truncates_rows_that_lose_no_answer(tmp_path: Path) -> None:
    """What is not trained can be cut, as the hosted service does it; the lines are listed."""
    data = write_rows(tmp_path / "d.jsonl", [chat("a", "b"), chat("a", "b", "long " * 50)])
    dataset = read_rows(data, ChatTokenizer.of(tiny_tokenizer()), limit=100)
    assert dataset.truncated_lines == (2,)
    assert len(dataset.examples[1].ids) == 100


@pytest.mark.parametrize("row", [chat("question " * 50, "b"), chat("a", "long " * 50), chat("a", "b", "c", "d" * 50)])
def test_read_rows_refuses_answer_that_is_cut(tmp_path: Path, row: dict[str, Any]) -> None:
    """Half an answer would teach the model to stop in the middle; the row is named with what it needs."""
    data = write_rows(tmp_path / "d.jsonl", [row])
    tokenizer = ChatTokenizer.of(tiny_tokenizer())
    needed = tokenizer.examples(row)[0].length_with_answers
    with pytest.raises(DatasetError, match=f"line 1: its answer ends after {needed} tokens, and 100 are trained"):
        read_rows(data, tokenizer, limit=100)
    assert read_rows(data, tokenizer, limit=needed).examples


def test_read_rows_skips_bad_rows_if_the_job_allows_it(tmp_path: Path) -> None:
    """One bad row costs that row: each is named with its reason, also those that the check of the file found."""
    data = tmp_path / "d.jsonl"
    rows = [chat("a", "b"), chat("a", "long " * 50), {"messages": "no"}, chat("c", "d"), chat("e", "f")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{]\n", encoding="utf-8")
    write_bad_rows(tmp_path / "bad.json", {"training": {4: "FT205 unknown-role"}})
    bad_rows = BadRows.load(tmp_path / "bad.json", "training", skip=True)
    dataset = read_rows(data, ChatTokenizer.of(tiny_tokenizer()), limit=100, bad_rows=bad_rows)
    assert dataset.lines == (1, 5)
    assert [text.partition(":")[0] for text in dataset.skipped] == ["line 2", "line 3", "line 4", "line 6"]
    assert dataset.skipped[2] == "line 4: FT205 unknown-role"


def test_read_rows_refuses_a_file_of_bad_rows_only(tmp_path: Path) -> None:
    """Nothing would be left, so the reasons are the error."""
    data = write_rows(tmp_path / "d.jsonl", [chat("a", "b", weights=[0])])
    with pytest.raises(DatasetError, match="line 1: no assistant message"):
        read_rows(data, ChatTokenizer.of(tiny_tokenizer()), limit=100, bad_rows=BadRows(skip=True))


@pytest.mark.parametrize("content", [b"{]\n", b"[1]\n", b"\xff\xfe\n"])
def test_read_rows_names_line_that_is_not_an_object(tmp_path: Path, content: bytes) -> None:
    """Blank lines and a byte order mark are skipped, anything else must be an object."""
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"messages": []}\n\n' + content)
    with pytest.raises(DatasetError, match=r"line 1: no assistant.*line 3: it is not (JSON|a JSON object)"):
        read_rows(path, ChatTokenizer.of(tiny_tokenizer()), limit=100)


def test_read_rows_refuses_missing_or_empty_file(tmp_path: Path) -> None:
    """Neither is a job of no steps."""
    with pytest.raises(DatasetError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl", ChatTokenizer.of(tiny_tokenizer()), limit=100)
    with pytest.raises(DatasetError, match="has no rows"):
        read_rows(write_rows(tmp_path / "d.jsonl", []), ChatTokenizer.of(tiny_tokenizer()), limit=100)
