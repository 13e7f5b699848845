"""The result of a check on disk: its report, every finding and the tokens of every row, in one SQLite file.

A process of its own writes it (``worker.py``), and the page reads a hundred rows of it at a time, so the page needs as
little memory for a million rows as for ten.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ftpipe.atomic_files import temporary_path
from ftpipe.records import Finding, Report
from ftpipe.sqlite_connection import connect_read_only

MAX_DETAILS_PER_RULE = 100_000
"""Findings of one rule that are stored with message and excerpt; of others only the line."""
BATCH_ROWS = 10_000
TIMEOUT_SECONDS = 5.0
_TABLES = """
CREATE TABLE report (json TEXT NOT NULL);
CREATE TABLE findings (line INTEGER NOT NULL, code TEXT NOT NULL, severity TEXT NOT NULL, path TEXT, message TEXT,
    hint TEXT, excerpt TEXT);
CREATE TABLE rows (line INTEGER PRIMARY KEY, tokens INTEGER NOT NULL, trained INTEGER NOT NULL);
"""
_INDEXES = """
CREATE INDEX by_line ON findings (line);
CREATE INDEX by_code ON findings (code, line);
CREATE INDEX by_tokens ON rows (tokens DESC, line);
"""
_LOSSES = """
CREATE TABLE losses (line INTEGER PRIMARY KEY, base REAL NOT NULL, tuned REAL NOT NULL);
CREATE INDEX by_loss ON losses (tuned DESC, line);
"""
_ORDERS = {"line": "r.line", "tokens": "r.tokens DESC, r.line", "loss": "l.tuned DESC, l.line"}
_HEAD_BYTES = 8192


class RowFinding(NamedTuple):
    """A finding at its row."""

    line: int
    code: str
    severity: str
    path: str
    message: str
    hint: str
    excerpt: str


class RowTokens(NamedTuple):
    """How long a row is."""

    tokens: int
    trained: int


class RowLoss(NamedTuple):
    """How hard a row is, in nats per trained token."""

    base: float
    tuned: float


@dataclass(frozen=True, slots=True)
class RowConditions:
    """What a row must have, as far as the check knows it."""

    code: str = ""
    """Code of a rule that it violates."""
    min_tokens: int | None = None
    max_tokens: int | None = None
    min_loss: float | None = None
    """Loss under the tuned model."""
    order: str = "line"
    """``line``, or ``tokens`` or ``loss`` for the highest first."""

    @property
    def is_empty(self) -> bool:
        """Whether every row of the file fits, in the order of the file."""
        return self == RowConditions()

    @property
    def needs_losses(self) -> bool:
        """Whether a ranking has to be chosen for it."""
        return self.min_loss is not None or self.order == "loss"


class CheckWriter:
    """Writes a result; it appears under its name when the block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, temporary_path(path)  # two servers may check the same file
        self._connection = sqlite3.connect(self._partial, isolation_level=None)
        self._connection.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")
        self._connection.execute("BEGIN")
        self._findings: list[tuple[Any, ...]] = []
        self._rows: list[tuple[int, int, int]] = []
        self._numbers: dict[str, int] = {}

    def __enter__(self) -> CheckWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            self._connection.execute("COMMIT")
            self._connection.executescript(_INDEXES)
        self._connection.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def add_finding(self, finding: Finding) -> None:
        """Add a finding of a row; those of the whole file are in the report."""
        if finding.line is None:
            return
        number = self._numbers[finding.code] = self._numbers.get(finding.code, 0) + 1
        details: tuple[str | None, ...] = (finding.path, finding.message, finding.hint, finding.excerpt)
        if number > MAX_DETAILS_PER_RULE:
            details = (None,) * 4
        self._findings.append((finding.line, finding.code, finding.severity.value, *details))
        if len(self._findings) >= BATCH_ROWS:
            self._flush()

    def add_row(self, line: int, tokens: int, trained: int) -> None:
        """Add the tokens of a row."""
        self._rows.append((line, tokens, trained))
        if len(self._rows) >= BATCH_ROWS:
            self._flush()

    def set_report(self, report: Report) -> None:
        """Add the report, which has the counts and the findings of the whole file."""
        self._connection.execute("INSERT INTO report VALUES (?)", (report.model_dump_json(),))

    def _flush(self) -> None:
        self._connection.executemany("INSERT INTO findings VALUES (?, ?, ?, ?, ?, ?, ?)", self._findings)
        self._connection.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", self._rows)
        self._findings.clear()
        self._rows.clear()


class CheckResult:
    """Reads a result.

    Args:
        path: The file that ``CheckWriter`` made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._connect() as connection:
            (text,) = connection.execute("SELECT json FROM report").fetchone()
        self.report = Report.model_validate_json(text)

    @contextmanager
    def _connect(self, losses: Path | None = None) -> Iterator[sqlite3.Connection]:
        with closing(connect_read_only(self._path, timeout_seconds=TIMEOUT_SECONDS)) as connection:
            if losses is not None:
                connection.execute("ATTACH ? AS ranking", (str(losses),))
            yield connection

    def findings(self, lines: Sequence[int]) -> dict[int, list[RowFinding]]:
        """The findings of some rows."""
        query = f"SELECT * FROM findings WHERE line IN ({_marks(lines)}) ORDER BY line, code"  # noqa: S608 - marks only
        found: dict[int, list[RowFinding]] = {}
        with self._connect() as connection:
            for line, *values in connection.execute(query, tuple(lines)):
                found.setdefault(line, []).append(RowFinding(line, *(value or "" for value in values)))
        return found

    def tokens(self, lines: Sequence[int]) -> dict[int, RowTokens]:
        """The tokens of some rows; a row that could not be read has none."""
        query = f"SELECT line, tokens, trained FROM rows WHERE line IN ({_marks(lines)})"  # noqa: S608 - marks only
        with self._connect() as connection:
            return {line: RowTokens(*values) for line, *values in connection.execute(query, tuple(lines))}

    def lines(
        self, conditions: RowConditions, *, after: int = 0, skip: int = 0, losses: Path | None = None
    ) -> Iterator[int]:
        """The numbers of the rows that fit.

        Args:
            conditions: What they must have.
            after: In the order of the file, the line after which to begin.
            skip: In another order, how many rows to leave out.
            losses: From ``import_losses``, if the conditions need it.
        """
        columns, source = "r.line", "rows r"
        clauses: list[str] = []
        values: list[object] = []
        if conditions.code:
            values.append(conditions.code)
            if conditions == RowConditions(code=conditions.code):  # also rows that could not be read
                columns, source, clauses = "DISTINCT r.line", "findings r", ["r.code = ?"]
            else:
                clauses.append("EXISTS (SELECT 1 FROM findings f WHERE f.code = ? AND f.line = r.line)")
        if losses is not None and conditions.needs_losses:
            source += " JOIN ranking.losses l ON l.line = r.line"
        for clause, value in (
            ("r.tokens >= ?", conditions.min_tokens),
            ("r.tokens <= ?", conditions.max_tokens),
            ("l.tuned >= ?", conditions.min_loss),
        ):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        if conditions.order == "line":
            clauses.append("r.line > ?")
            values.append(after)
            skip = 0
        where, order = " AND ".join(clauses) or "1", _ORDERS[conditions.order]
        query = f"SELECT {columns} FROM {source} WHERE {where} ORDER BY {order} LIMIT -1 OFFSET ?"  # noqa: S608
        with self._connect(losses) as connection:
            for (line,) in connection.execute(query, (*values, skip)):
                yield line


def _marks(lines: Sequence[int]) -> str:
    return ",".join("?" * len(lines))


class RankingHead(NamedTuple):
    """What a ranking of ``ftpipe losses`` is about."""

    path: Path
    data_sha256: str
    baseline: str
    model: str


def find_rankings(folder: Path, data_sha256: str) -> list[RankingHead]:
    """The rankings of a dataset in the folder of ``ftpipe losses``, the newest first; only their beginning is read."""
    heads = []
    for path in sorted(folder.glob("losses-*.json"), key=lambda one: -one.stat().st_mtime):
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
        match = re.match(r'(\{.*?),"rows":', head, re.DOTALL)
        try:
            values = json.loads(match[1] + "}") if match else {}
        except ValueError:
            continue
        if values.get("data_sha256") == data_sha256:
            heads.append(RankingHead(path, data_sha256, str(values.get("baseline")), str(values.get("model"))))
    return heads


def import_losses(ranking: Path, folder: Path) -> Path:
    """The losses of a ranking as a table beside the checks; made once for each version of the ranking."""
    status = ranking.stat()
    target = folder / f"{ranking.stem}-{status.st_mtime_ns:x}.db"
    if target.is_file():
        return target
    rows = json.loads(ranking.read_bytes())["rows"]
    write_losses(((row["line"], row["base_loss"], row["tuned_loss"]) for row in rows), target)
    return target


def write_losses(rows: Iterable[tuple[int, float, float]], target: Path) -> None:
    """Write a table of losses that appears under its name when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_path(target)
    with closing(sqlite3.connect(partial)) as connection:
        connection.executescript(_LOSSES)
        connection.executemany("INSERT OR REPLACE INTO losses VALUES (?, ?, ?)", rows)
        connection.commit()
    partial.replace(target)


def losses_of(table: Path, lines: Sequence[int]) -> dict[int, RowLoss]:
    """The losses of some rows."""
    query = f"SELECT line, base, tuned FROM losses WHERE line IN ({_marks(lines)})"  # noqa: S608 - marks only
    with closing(connect_read_only(table, timeout_seconds=TIMEOUT_SECONDS)) as connection:
        return {line: RowLoss(*values) for line, *values in connection.execute(query, tuple(lines))}
