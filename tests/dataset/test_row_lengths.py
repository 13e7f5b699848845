"""Lengths of rows: as the base model's tokenizer counts them, else as the report of the data says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.dataset import row_lengths
from ftpipe.dataset.row_lengths import read_job_data
from ftpipe.paths import models_dir
from ftpipe.records import Method
from ftpipe.stages.validate import validate
from ftpipe.training.memory_settings import RowLengths
from tests.training.tiny_model import chat, tiny_tokenizer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows of which the last one is by far the longest."""
    rows = [chat(f"question {number}", "yes") for number in range(40)] + [chat("long " * 200, "no")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def save_tokenizer() -> None:
    """A base model with the name tiny, as far as rows are counted with it."""
    folder = models_dir() / "tiny"
    tiny_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text("{}", encoding="utf-8")


def test_read_job_data_without_tokenizer_uses_the_report(data: Path) -> None:
    tokens = validate(data, target="local").tokens
    assert tokens is not None
    job = read_job_data(data, "not-here", tokens)
    assert job.rows == RowLengths(tokens.max, tokens.trained / tokens.total)
    assert (job.examples, job.tokens) == (41, tokens.total)


def test_read_job_data_counts_with_the_tokenizer_of_the_base(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token per character; also of a sample, which always has the longest rows."""
    save_tokenizer()
    tokens = validate(data, target="local").tokens
    assert tokens is not None
    whole = read_job_data(data, "tiny", tokens)
    assert whole.rows.longest > 1000
    assert whole.rows.longest > tokens.max * 3
    assert whole.tokens and whole.tokens > tokens.total * 3
    monkeypatch.setattr(row_lengths, "MAX_COUNTED_ROWS", 5)
    sample = read_job_data(data, "tiny", tokens)
    assert sample.rows.longest == whole.rows.longest
    assert sample.examples == 41


def test_read_job_data_leaves_out_rows_that_cannot_be_rendered(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if they are the largest ones."""
    save_tokenizer()
    tokens = validate(data, target="local").tokens
    assert tokens is not None
    whole = read_job_data(data, "tiny", tokens)
    broken = json.dumps({"messages": [{"role": "user", "content": {"long": "x" * 9000}}]})
    data.write_text(data.read_text(encoding="utf-8") + broken + "\n", encoding="utf-8")
    monkeypatch.setattr(row_lengths, "LARGEST_ROWS", 1)
    assert read_job_data(data, "tiny", tokens) == whole


def test_read_job_data_of_pairs_counts_both_answers(tmp_path: Path) -> None:
    answers = {name: [{"role": "assistant", "content": name}] for name in ("preferred_output", "non_preferred_output")}
    row = {"input": {"messages": [{"role": "user", "content": "hi"}]}, **answers}
    path = tmp_path / "pairs.jsonl"
    path.write_text((json.dumps(row) + "\n") * 10, encoding="utf-8")
    tokens = validate(path, target="local").tokens
    assert tokens is not None
    assert read_job_data(path, "not-here", tokens, method=Method.DPO).rows.rows_per_example == 2


def test_read_job_data_of_reinforcement_counts_prompts(tmp_path: Path) -> None:
    """The answers do not exist yet."""
    folder = models_dir() / "tiny"
    folder.mkdir(parents=True)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    path = tmp_path / "prompts.jsonl"
    path.write_text((json.dumps({**chat("hi"), "answer": "ho"}) + "\n") * 10, encoding="utf-8")
    tokens = validate(path, target="local").tokens
    assert tokens is not None
    data = read_job_data(path, "tiny", tokens, method=Method.REINFORCEMENT)
    assert 10 < data.rows.longest < 100
    assert data.rows.trained_part == 0
