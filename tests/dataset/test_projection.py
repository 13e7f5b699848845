"""The copy of a dataset that is uploaded where a host refuses keys: told, repeatable, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.dataset import open_dataset
from ftpipe.dataset.projection import project_dataset
from ftpipe.errors import DatasetError
from tests.dataset.negative_examples import exchange
from tests.dataset.samples import chats, preference, write


def test_dataset_without_extra_keys_is_uploaded_as_it_is(tmp_path: Path) -> None:
    """No copy is left, not even an empty folder's worth of one."""
    dataset = open_dataset(write(tmp_path / "a.jsonl", [*chats()]))
    for target in ("together", "fireworks", "openai", "local"):
        projection = project_dataset(dataset, target, tmp_path / "copies")
        assert (projection.dataset, projection.removed, projection.sentence("T")) == (dataset, {}, "")
    assert not list(tmp_path.glob("copies/*"))


def test_keys_that_the_host_refuses_are_left_out_and_named(tmp_path: Path) -> None:
    extra = {**exchange(), "source": "x", "parallel_tool_calls": True, "weight": 2, "tools": []}
    path = write(tmp_path / "a.jsonl", [*chats(), extra, {**exchange("Really?"), "source": "y"}])
    before = path.read_bytes()
    projection = project_dataset(open_dataset(path), "together", tmp_path / "copies")
    lines = projection.dataset.path.read_bytes().splitlines()
    assert lines[:12] == before.splitlines()[:12]
    assert json.loads(lines[12]).keys() == {"messages", "weight", "tools"}
    assert projection.removed == {"source": 2, "parallel_tool_calls": 1}
    sentence = projection.sentence("Together")
    assert "'source' (2 examples)" in sentence and "your file does not change" in sentence
    assert path.read_bytes() == before


def test_copy_is_the_dataset_that_its_record_says(tmp_path: Path) -> None:
    """The upload checks the digest, and a resumed run makes the same copy."""
    dataset = open_dataset(write(tmp_path / "a.jsonl", [{**exchange(), "source": "x"}, *chats()]))
    first = project_dataset(dataset, "fireworks", tmp_path / "copies").dataset
    again = project_dataset(dataset, "fireworks", tmp_path / "copies").dataset
    assert first == again
    copy = open_dataset(first.path)
    assert (copy.sha256, copy.bytes, copy.examples) == (first.sha256, first.bytes, first.examples)
    assert first.sha256 != dataset.sha256


def test_preference_pair_keeps_its_three_keys(tmp_path: Path) -> None:
    row = {**preference(0), "source": "x"}
    row["input"] = {**row["input"], "parallel_tool_calls": True, "tools": []}
    path = write(tmp_path / "a.jsonl", [row])
    projection = project_dataset(open_dataset(path), "together", tmp_path / "copies")
    copy = json.loads(projection.dataset.path.read_bytes())
    assert copy.keys() == {"input", "preferred_output", "non_preferred_output"}
    assert copy["input"].keys() == {"messages", "tools"}


def test_file_that_has_changed_since_it_was_checked_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**exchange(), "source": "x"}])
    dataset = open_dataset(path)
    write(path, [*chats()])
    with pytest.raises(DatasetError, match="has changed since it was checked"):
        project_dataset(dataset, "together", tmp_path / "copies")
