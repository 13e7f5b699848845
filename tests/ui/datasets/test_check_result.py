"""The result of a check on disk, and the rows that fit what it knows."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.line_index import LineIndex
from ftpipe.dataset.row_search import take_matching
from ftpipe.errors import UsageError
from ftpipe.records.row_losses import LossRanking, RankedRow
from ftpipe.sqlite_connection import connect_read_only
from ftpipe.ui.datasets.check_result import (
    MAX_DETAILS_PER_RULE,
    CheckResult,
    CheckWriter,
    RowConditions,
    find_rankings,
    import_losses,
    write_losses,
)
from ftpipe.ui.datasets.checks import CheckRequest
from ftpipe.ui.datasets.rows_page import RowsQuery, rows_page
from ftpipe.ui.datasets.worker import run_task

BROKEN = Path(__file__).parents[3] / "data" / "broken.jsonl"


def run_check(tmp_path: Path) -> CheckResult:
    """The check of the broken file for this machine."""
    output = tmp_path / "check.db"
    request = CheckRequest(BROKEN, "local", "smollm2-135m-instruct")
    run_task({"task": "check", "output": str(output), **request.as_json()})
    return CheckResult(output)


@pytest.fixture
def check(tmp_path: Path) -> CheckResult:
    return run_check(tmp_path)


@pytest.fixture
def index() -> LineIndex:
    return LineIndex.build(BROKEN)


def test_check_has_every_finding_at_its_row(check: CheckResult) -> None:
    found = check.findings(list(range(1, 30)))
    by_code: dict[str, int] = {}
    for findings in found.values():
        for finding in findings:
            by_code[finding.code] = by_code.get(finding.code, 0) + 1
    whole_file = {finding.code for finding in check.report.findings if finding.line is None}
    expected = {code: number for code, number in check.report.summary.counts.items() if code not in whole_file}
    assert by_code == expected


def test_check_has_the_tokens_of_every_row(check: CheckResult) -> None:
    tokens = check.tokens(list(range(1, 30)))
    assert check.report.tokens is not None
    assert sum(one.tokens for one in tokens.values()) == check.report.tokens.total
    assert sum(one.trained for one in tokens.values()) == check.report.tokens.trained


def test_lines_fit_rule_and_length(check: CheckResult) -> None:
    assert list(check.lines(RowConditions(code="FT204"))) == [3]
    assert list(check.lines(RowConditions(code="FT204"), after=3)) == []
    longest = list(check.lines(RowConditions(order="tokens")))
    lengths = [check.tokens([line])[line].tokens for line in longest]
    assert lengths == sorted(lengths, reverse=True)
    short = list(check.lines(RowConditions(max_tokens=20)))
    assert short
    assert all(check.tokens([line])[line].tokens <= 20 for line in short)
    both = list(check.lines(RowConditions(code="FT110", min_tokens=1)))
    assert both == [16]


def test_rows_page_combines_search_and_rule(check: CheckResult, index: LineIndex) -> None:
    query = RowsQuery(q="nothing like this", rule="FT204")
    assert rows_page(index, query, check).rows == ()
    page = rows_page(index, RowsQuery(rule="FT204"), check)
    assert [row.line for row in page.rows] == [3]
    assert page.rows[0].codes == (("FT204", "error"),)
    assert page.next == ""


def test_rows_page_refuses_filters_that_need_what_is_missing(check: CheckResult, index: LineIndex) -> None:
    with pytest.raises(UsageError, match="still being checked"):
        rows_page(index, RowsQuery(rule="FT204"), None)
    with pytest.raises(UsageError, match="no losses"):
        rows_page(index, RowsQuery(min_loss="1"), check)
    with pytest.raises(UsageError, match="not a number"):
        rows_page(index, RowsQuery(min_tokens="many"), check)


def test_rows_page_in_order_of_length_has_a_next_page(tmp_path: Path) -> None:
    data, output = tmp_path / "data.jsonl", tmp_path / "check.db"
    rows = [
        {"messages": [{"role": "user", "content": "word " * n}, {"role": "assistant", "content": f"{n}"}]}
        for n in range(1, 151)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    request = CheckRequest(data, "local", "smollm2-135m-instruct")
    run_task({"task": "check", "output": str(output), **request.as_json()})
    index, check = LineIndex.build(data), CheckResult(output)
    first = rows_page(index, RowsQuery(order="tokens"), check)
    assert [row.line for row in first.rows] == list(range(150, 50, -1))
    second = rows_page(index, RowsQuery(order="tokens", after=first.next), check)
    assert [row.line for row in second.rows] == list(range(50, 0, -1))
    assert (second.previous, second.next) == ("", "")


def test_a_search_that_is_stopped_says_how_far_it_came(
    check: CheckResult, index: LineIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftpipe.ui.datasets.rows_page.take_matching", partial(take_matching, seconds=-1))
    page = rows_page(index, RowsQuery(q="nothing like this", min_tokens="1"), check)
    first = next(check.lines(RowConditions(min_tokens=1)))
    assert (page.searched_to, page.next) == (first, str(first))
    page = rows_page(index, RowsQuery(q="nothing like this", order="tokens", after="3"), check)
    assert (page.searched_to, page.next) == (4, "4"), "rows, because line numbers say nothing in this order"


@pytest.mark.parametrize(
    "conditions",
    [
        RowConditions(order="tokens"),
        RowConditions(order="tokens", min_tokens=5, max_tokens=90),
        RowConditions(order="loss"),
        RowConditions(order="loss", min_loss=0.5, code="FT110"),
        RowConditions(min_tokens=5, max_tokens=90, min_loss=0.5),
        RowConditions(code="FT110"),
    ],
)
def test_a_page_of_rows_sorts_no_table(
    tmp_path: Path, conditions: RowConditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []

    def connect_and_trace(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect_read_only(*args, **kwargs)
        connection.set_trace_callback(statements.append)
        return connection

    check, losses = run_check(tmp_path), tmp_path / "losses.db"
    write_losses([(16, 1.0, 2.0)], losses)
    monkeypatch.setattr("ftpipe.ui.datasets.check_result.connect_read_only", connect_and_trace)
    list(check.lines(conditions, losses=losses))
    with closing(sqlite3.connect(tmp_path / "check.db")) as connection:
        connection.execute("ATTACH ? AS ranking", (str(losses),))
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {statements[-1]}").fetchall())
    assert "TEMP B-TREE" not in plan


def test_losses_of_a_ranking_filter_and_order_rows(tmp_path: Path, check: CheckResult, index: LineIndex) -> None:
    rows = tuple(RankedRow(line=n, tokens=3, base_loss=2.0, tuned_loss=n / 10, prompt="p") for n in (1, 3, 8, 13))
    folder = tmp_path / "losses"
    folder.mkdir()
    ranking = LossRanking(
        id="losses-1", created_at=1, data="broken.jsonl", data_sha256="abc", baseline="base", model="ft:x",
        rank_by="tuned", rows=rows,
    )  # fmt: skip
    (folder / "losses-1.json").write_text(ranking.model_dump_json(), encoding="utf-8")
    (folder / "losses-2.json").write_text("{broken", encoding="utf-8")
    assert find_rankings(folder, "other") == []
    (head,) = find_rankings(folder, "abc")
    assert (head.model, head.baseline) == ("ft:x", "base")
    table = import_losses(head.path, tmp_path / "tables")
    page = rows_page(index, RowsQuery(order="loss", min_loss="0.5"), check, table)
    assert [row.line for row in page.rows] == [13, 8]
    assert page.losses[13].tuned == 1.3
    page = rows_page(index, RowsQuery(rule="FT110", min_tokens="1"), check, table)
    assert [row.line for row in page.rows] == [16], "a filter that needs no loss also has rows without one"


def test_findings_beyond_the_bound_are_stored_without_details(tmp_path: Path, check: CheckResult) -> None:
    finding = next(one for one in check.report.findings if one.code == "FT204")
    with CheckWriter(tmp_path / "many.db") as writer:
        writer.set_report(check.report)
        for line in range(1, MAX_DETAILS_PER_RULE + 3):
            writer.add_finding(finding.model_copy(update={"line": line}))
    many = CheckResult(tmp_path / "many.db")
    last = many.findings([1, MAX_DETAILS_PER_RULE + 2])
    assert last[1][0].message
    assert last[MAX_DETAILS_PER_RULE + 2][0].message == ""
    assert len(list(many.lines(RowConditions(code="FT204")))) == MAX_DETAILS_PER_RULE + 2


def test_writer_leaves_nothing_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), CheckWriter(tmp_path / "x.db"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
