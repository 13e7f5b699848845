"""Search in the rows of a file: by text, by label, in pages, and in bounded time."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.line_index import LineIndex
from ftpipe.dataset.row_search import TextQuery, find_rows, label_of, rows_from


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(folder: Path, rows: list[dict[str, Any]], *, ascii_only: bool = False) -> LineIndex:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=ascii_only) + "\n" for one in rows), encoding="utf-8")
    return LineIndex.build(path)


def numbers(index: LineIndex, query: TextQuery, after: int = 0, limit: int = 100) -> list[int]:
    return [line.number for line in find_rows(index, query, after=after, limit=limit).lines]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("text", ["Straße", "straße", 'a "quoted" word', "naïve", "NAÏVE", "back\\slash", "tab\there"])
def test_search_finds_text_however_json_writes_it(tmp_path: Path, text: str, ascii_only: bool) -> None:
    hit = row('The Straße has a "quoted" word, is naïve, has a back\\slash and a tab\there', "yes")
    index = write(tmp_path, [row("nothing", "no"), hit, row("nothing", "no")], ascii_only=ascii_only)
    assert numbers(index, TextQuery(text)) == [2]


@pytest.mark.parametrize("word", ["role", "assistant", "messages", "content", "user"])
def test_search_does_not_find_the_keys_and_roles_of_every_row(tmp_path: Path, word: str) -> None:
    index = write(tmp_path, [row("a", "b"), row(f"my {word}", "b")])
    assert numbers(index, TextQuery(word)) == [2]


def test_search_by_label_compares_the_whole_last_answer(tmp_path: Path) -> None:
    index = write(tmp_path, [row("a", "bug"), row("bug", "bugs"), row("a", " bug "), row("a", "Bug")])
    assert numbers(index, TextQuery(label="bug")) == [1, 3]
    assert numbers(index, TextQuery("a", label="bug")) == [1, 3]


def test_search_continues_after_a_page(tmp_path: Path) -> None:
    index = write(tmp_path, [row(f"{'odd' if number % 2 else 'even'}", "x") for number in range(1, 501)])
    first = find_rows(index, TextQuery("odd"), limit=100)
    assert [line.number for line in first.lines] == list(range(1, 200, 2))
    assert not first.is_complete
    rest = numbers(index, TextQuery("odd"), after=first.lines[-1].number, limit=1000)
    assert rest == list(range(201, 500, 2))


def test_search_stops_in_time_and_says_how_far_it_came(tmp_path: Path) -> None:
    index = write(tmp_path, [row("role of a user", "x") for _ in range(50)])
    ticks = count()
    found = find_rows(index, TextQuery("assistant"), seconds=10, clock=lambda: float(next(ticks)))
    assert found.lines == []
    assert not found.is_complete
    assert 0 < found.searched_to < 50
    complete = find_rows(index, TextQuery("assistant"), after=found.searched_to)
    assert complete.is_complete


def test_search_without_condition_is_a_page(tmp_path: Path) -> None:
    index = write(tmp_path, [row(str(number), "x") for number in range(150)])
    page = find_rows(index, TextQuery(), after=100)
    assert [line.number for line in page.lines] == list(range(101, 151))
    assert page.is_complete


def test_search_shows_a_broken_line_that_has_the_text(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(b'{"messages": [ needle\n\xff needle\n{}\n')
    assert numbers(LineIndex.build(path), TextQuery("NEEDLE")) == [1, 2]


def test_rows_from_reads_numbers_in_their_order(tmp_path: Path) -> None:
    index = write(tmp_path, [row(str(number), "x") for number in range(1, 101)])
    assert [line.number for line in rows_from(index, [90, 3, 4, 50, 500])] == [90, 3, 4, 50]


def test_label_of_a_pair_or_a_tool_call_is_empty() -> None:
    assert label_of({"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}) == ""
    assert label_of({"messages": [{"role": "assistant", "tool_calls": []}]}) == ""
    assert label_of(row("q", " answer ")) == "answer"
