"""Reading rows, and the order in which they are trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.errors import DatasetError
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, ChatTokenizer, Example
from ftpipe.training.batching import common_prefix_length, epoch_batches, iter_rows, micro_batches, read_rows
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


def test_read_rows_truncates_and_lists_long_rows(tmp_path: Path) -> None:
    """The end of a long row is lost, as the hosted service does it."""
    data = write_rows(tmp_path / "d.jsonl", [chat("a", "b"), chat("a", "long " * 50)])
    dataset = read_rows(data, ChatTokenizer.of(tiny_tokenizer()), limit=100)
    assert dataset.truncated_lines == (2,)
    assert len(dataset.examples[1].ids) == 100


def test_read_rows_refuses_truncated_away_answer(tmp_path: Path) -> None:
    """Otherwise it would be a row with nothing to learn."""
    data = write_rows(tmp_path / "d.jsonl", [chat("question " * 50, "b")])
    with pytest.raises(DatasetError, match="line 1: its answer starts after 100 tokens"):
        read_rows(data, ChatTokenizer.of(tiny_tokenizer()), limit=100)


@pytest.mark.parametrize("content", [b"{]\n", b"[1]\n", b"\xff\xfe\n"])
def test_iter_rows_names_line_that_is_not_an_object(tmp_path: Path, content: bytes) -> None:
    """Blank lines and a byte order mark are skipped, anything else must be an object."""
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"messages": []}\n\n' + content)
    with pytest.raises(DatasetError, match="line 3"):
        list(iter_rows(path))


def test_read_rows_refuses_missing_or_empty_file(tmp_path: Path) -> None:
    """Neither is a job of no steps."""
    with pytest.raises(DatasetError, match="cannot be read"):
        list(iter_rows(tmp_path / "none.jsonl"))
    with pytest.raises(DatasetError, match="has no rows"):
        read_rows(write_rows(tmp_path / "d.jsonl", []), ChatTokenizer.of(tiny_tokenizer()), limit=100)
