"""A page of the rows of a dataset: which rows fit the filters, and where the next page begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ftpipe.dataset.line_index import IndexedLine, LineIndex
from ftpipe.dataset.row_search import RowMatches, TextQuery, find_rows, rows_from, take_matching
from ftpipe.errors import UsageError
from ftpipe.ui.datasets.check_result import CheckResult, RowConditions, RowLoss, RowTokens, losses_of
from ftpipe.ui.datasets.row_view import RowSummary, summarize_row
from ftpipe.ui.fields import decimal_number, whole_number

ROWS_PER_PAGE = 100
ORDERS = ("line", "tokens", "loss")


@dataclass(frozen=True, slots=True)
class RowsQuery:
    """Filters and position, as the page's URL has them."""

    q: str = ""
    """Text to search for."""
    label: str = ""
    rule: str = ""
    min_tokens: str = ""
    max_tokens: str = ""
    min_loss: str = ""
    order: str = "line"
    after: str = ""
    """Line after which the page begins; in another order than that of the file, rows before it."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> RowsQuery:
        """The query of a request; unknown parameters are ignored."""
        values = {name: query.get(name, "")[:500] for name in cls.__dataclass_fields__}
        values["order"] = values["order"] if values["order"] in ORDERS else "line"
        if line := query.get("line", "").strip():
            values["after"] = str(max(0, (whole_number(line, "the line") or 1) - 1))
        return cls(**values)

    @property
    def text(self) -> TextQuery:
        """What the texts of a row must have."""
        return TextQuery(self.q.strip(), self.label)

    @property
    def conditions(self) -> RowConditions:
        """What the check must say about a row.

        Raises:
            UsageError: A field is not a number.
        """
        return RowConditions(
            code=self.rule.strip().upper(),
            min_tokens=whole_number(self.min_tokens, "the minimum of tokens"),
            max_tokens=whole_number(self.max_tokens, "the maximum of tokens"),
            min_loss=decimal_number(self.min_loss, "the minimum of the loss"),
            order=self.order,
        )

    @property
    def position(self) -> int:
        """``after`` as a number.

        Raises:
            UsageError: It is none.
        """
        return whole_number(self.after, "the position") or 0

    @property
    def is_filtered(self) -> bool:
        """Whether not every row is shown in the order of the file."""
        return replace(self, after="") != RowsQuery()

    def parameters(self, others: Mapping[str, str], **changes: Any) -> dict[str, str]:
        """The parameters of a link: these, others, and changes, without those that are empty."""
        values = {**asdict(self), **others, **changes}
        return {
            name: str(value) for name, value in values.items() if value != "" and (name, value) != ("order", "line")
        }


@dataclass(frozen=True, slots=True)
class RowsPage:
    """Up to a hundred rows."""

    rows: tuple[RowSummary, ...]
    tokens: Mapping[int, RowTokens]
    losses: Mapping[int, RowLoss]
    next: str
    """``after`` of the next page; empty at the end."""
    previous: str | None
    """``after`` of the page before; ``None`` if it is not known or there is none."""
    searched_to: int
    """If the search was stopped before the end, the last line that was searched, or in another order than that of the
    file the number of rows; else 0.
    """


def rows_page(index: LineIndex, query: RowsQuery, check: CheckResult | None, losses: Path | None = None) -> RowsPage:
    """The rows that fit, in bounded time.

    Args:
        index: The file.
        query: Filters and position.
        check: The result of the check, if there is one.
        losses: The losses of the rows, if they are known.

    Raises:
        UsageError: A field is wrong, or a filter needs a check or losses that there are not.
    """
    conditions, position = query.conditions, query.position
    skipped = 0
    if conditions.is_empty:
        matches = find_rows(index, query.text, after=position, limit=ROWS_PER_PAGE)
    else:
        if check is None:
            raise UsageError("the dataset is still being checked", "filter by rule and length when the check has ended")
        if conditions.needs_losses and losses is None:
            raise UsageError(
                "no losses of this dataset are known", "compute them first, with a model that was trained on it"
            )
        matches, skipped = _from_check(index, query, check, losses)
    numbers = [line.number for line in matches.lines]
    findings = check.findings(numbers) if check is not None else {}
    is_stopped = not matches.is_complete and len(matches.lines) < ROWS_PER_PAGE
    if query.order == "line":
        following = matches.lines[-1].number if len(matches.lines) == ROWS_PER_PAGE else matches.searched_to
        before = max(0, position - ROWS_PER_PAGE) if position and not query.is_filtered else None
    else:
        following = position + skipped
        before = max(0, position - ROWS_PER_PAGE) if position and not query.q and not query.label else None
    return RowsPage(
        rows=tuple(summarize_row(line, findings.get(line.number, ()), query.q.strip()) for line in matches.lines),
        tokens=check.tokens(numbers) if check is not None else {},
        losses=losses_of(losses, numbers) if losses is not None else {},
        next="" if matches.is_complete else str(following),
        previous=None if before is None else str(before or ""),
        searched_to=following if is_stopped else 0,
    )


def _from_check(index: LineIndex, query: RowsQuery, check: CheckResult, losses: Path | None) -> tuple[RowMatches, int]:
    """The rows among those that the check names, and how many of these were looked at."""
    looked_at = 0
    end_reached = False

    def candidates() -> Iterator[IndexedLine]:
        nonlocal looked_at, end_reached
        numbers = check.lines(query.conditions, after=query.position, skip=query.position, losses=losses)
        for line in rows_from(index, numbers):
            looked_at += 1
            yield line
        end_reached = True

    matches = take_matching(candidates(), query.text, limit=ROWS_PER_PAGE, end=index.lines)
    return matches._replace(is_complete=end_reached), looked_at
