"""Lines of a file by number, without reading the lines before them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.dataset import line_index
from ftpipe.dataset.line_index import IndexedLine, LineIndex
from ftpipe.errors import UsageError


def index_of(folder: Path, content: bytes) -> LineIndex:
    path = folder / "data.jsonl"
    path.write_bytes(content)
    return LineIndex.build(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"")), max_size=40),
    ends=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_index_reads_what_splitting_the_file_gives(folder: Path, lines: list[bytes], ends: bool, chunk: int) -> None:
    """For every size of a chunk, also one smaller than a line."""
    content = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    expected = content.split(b"\n")
    if not expected[-1]:
        expected.pop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_index, "CHUNK_BYTES", chunk)
        index = index_of(folder, content)
        assert index.lines == len(expected)
        read = [line for number in range(1, index.lines + 1) for line in index.read(number, 1)]
    assert read == [IndexedLine(number, raw) for number, raw in enumerate(expected, 1)]


def test_index_reads_a_page_and_stops_at_the_end(tmp_path: Path) -> None:
    index = index_of(tmp_path, b"".join(b"%d\n" % number for number in range(1, 251)))
    assert [line.raw for line in index.read(200, 100)] == [b"%d" % number for number in range(200, 251)]
    assert index.read(251, 100) == []
    assert index.read(0, 100) == []


def test_index_cuts_a_long_line_and_reads_the_next_one(tmp_path: Path) -> None:
    index = index_of(tmp_path, b"x" * 5000 + b"\nshort\n")
    assert index.read(1, 2, max_line_bytes=10) == [IndexedLine(1, b"x" * 10, True), IndexedLine(2, b"short")]


def test_index_is_not_current_after_a_change(tmp_path: Path) -> None:
    index = index_of(tmp_path, b"a\n")
    assert index.is_current
    with index.path.open("ab") as file:
        file.write(b"b\n")
    assert not index.is_current
    index.path.unlink()
    assert not index.is_current


def test_index_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        LineIndex.build(tmp_path / "missing.jsonl")


def test_index_of_many_lines_is_small(tmp_path: Path) -> None:
    index = index_of(tmp_path, os.urandom(16).hex().encode() * 8192 + b"\n" * 300_000)
    assert index.lines == 300_000
    assert len(index.newlines_before) < 10
