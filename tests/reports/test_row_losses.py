"""Row losses as text, CSV and HTML: no data is active, and every figure is shown."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from ftpipe.records.row_losses import LossRanking, RankedRow
from ftpipe.reports.row_losses import loss_csv, loss_html, loss_lines
from tests.reports.test_evaluation import ALLOWED, Tags
from tests.reports.xss_payloads import PAYLOADS


def ranking(payload: str = "ticket", **changes: Any) -> LossRanking:
    """Three rows with the payload in every text."""
    rows = tuple(
        RankedRow(
            line=line,
            tokens=4,
            base_loss=2.0,
            tuned_loss=3.5 - line,
            prompt=payload,
            completion=payload,
            rule_codes=codes,
        )
        for line, codes in ((1, ("FT803",)), (2, ()), (3, ()))
    )
    values = {
        "id": "losses-1",
        "created_at": 1_795_000_000,
        "data": payload,
        "data_sha256": "a" * 64,
        "rank_by": "tuned",
    }
    return LossRanking.model_validate({**values, "baseline": payload, "model": payload, "rows": rows, **changes})


@pytest.mark.parametrize("payload", PAYLOADS)
def test_row_losses_reports_escape_data(payload: str) -> None:
    """Only the template's tags; no formula in the CSV; one line per row on the terminal."""
    tags = Tags()
    tags.feed(loss_html(ranking(payload), 2))
    assert {tag for tag, _ in tags.tags} <= ALLOWED | {"circle"}
    names = {name for _, attributes in tags.tags for name in attributes}
    assert not [name for name in names if name in ("href", "src", "style") or name.startswith("on")]
    cells = [cell for row in csv.reader(io.StringIO(loss_csv(ranking(payload)), newline="")) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
    lines = list(loss_lines(ranking(payload), 20))
    assert len(lines) == 8
    assert all(character.isprintable() for line in lines for character in line)


def test_row_losses_report_shows_rank_means_and_rest() -> None:
    """Rules have a column only if there are any; rows that are not shown are counted."""
    text = "\n".join(loss_lines(ranking(), 2))
    assert "base   2.0000" in text
    assert "tuned  1.5000" in text
    assert "+0.500  FT803" in text
    assert "… and 1 row not shown, ranked by the tuned model's loss" in text
    plain = ranking(rows=(RankedRow(line=9, tokens=1, base_loss=1.0, tuned_loss=0.25),))
    assert "rules" not in "\n".join(loss_lines(plain, 5))
    assert "−0.750" in "\n".join(loss_lines(plain, 5))
    page = loss_html(ranking(), 2)
    assert (page.count('class="marked"'), page.count('class="other"')) == (2, 1)


def test_row_losses_cut_prompts_at_the_width_of_a_terminal() -> None:
    """A row is one line, in each column something."""
    wide, narrow = (list(loss_lines(ranking("long words " * 20), 2, width=width)) for width in (None, 80))
    assert len(narrow) == len(wide)
    rows = narrow[5:7]
    assert {len(line) for line in rows} <= {79, 80}
    assert all(line.endswith("…") for line in rows)
