"""Records about a dataset that need no endpoint: findings, tokens, cost, report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ftpipe.records.base import DatasetFormat, Method, Record, Severity


class Fix(Record):
    """How a finding can be fixed automatically."""

    kind: Literal["safe", "unsafe"]
    """``safe`` keeps the meaning and removes nothing; ``unsafe`` removes or changes something."""
    note: str
    """What the fix does, in a few words."""


class Finding(Record):
    """An error in a dataset, or a warning about it."""

    code: str
    """Stable rule code, for example ``FT204``."""
    name: str
    """The rule's name in kebab case, for example ``missing-role``."""
    severity: Severity
    line: int | None = None
    """1-based line in the file; ``None`` if the finding is about the whole file."""
    path: str = ""
    """JSON path inside the line, for example ``messages[2].role``; empty for the whole line."""
    message: str
    """What is wrong, with the value."""
    hint: str = ""
    """What to do about it."""
    excerpt: str = ""
    """The text in question, without control characters, at most 160 characters."""
    origin: Literal["R", "D", "S", "Q", "P", "L"] = "D"
    """R server rejects, D documented limit, S server silently changes data, Q quality, P privacy, L local."""
    evidence: Literal["observed", "documented", "inferred"] = "documented"
    file: str = ""
    """The file's name as the user gave it."""
    record_sha256: str = ""
    """SHA-256 of the canonical record, so that a finding survives reordering; empty if there is none."""
    count: int = 1
    """Number of findings that it stands for: more than one only for a rule about the whole file."""
    fix: Fix | None = None


class Dataset(Record):
    """A dataset file, identified by its content."""

    path: Path
    sha256: str
    """SHA-256 of the file's bytes."""
    bytes: int
    """Size in bytes."""
    examples: int
    """Number of records, blank lines not counted."""
    format: DatasetFormat


class TokenStats(Record):
    """Token counts of a dataset."""

    encoding: str
    """tiktoken encoding, for example ``o200k_base``."""
    exact: bool
    """False if the base model has another tokenizer, or images are only estimated."""
    note: str = ""
    """Why the count is not exact; empty if it is."""
    lower_bound_examples: int = 0
    """Examples that may have more tokens than were counted; if there are any, all figures are lower bounds."""
    total: int
    """All tokens in the file, which are billed per epoch."""
    trained: int
    """Tokens of assistant messages whose weight is not 0, on which the loss is computed."""
    examples: int
    """Records that were counted."""
    mean: float
    """Mean tokens per example."""
    min: int
    p50: int
    p90: int
    p95: int
    p99: int
    max: int
    longest_line: int | None
    """1-based line of the longest example; ``None`` for an empty dataset."""
    limit: int | None = None
    """Tokens per example that the target trains on; the rest is dropped at the end."""
    over_limit: int = 0
    """Examples longer than ``limit``."""
    billable: int = 0
    """Tokens per epoch that are billed: each example truncated at ``limit``."""

    @property
    def at_least(self) -> str:
        """``at least`` and a space before the figures if they are lower bounds, else nothing."""
        return "at least " if self.lower_bound_examples else ""


class CostEstimate(Record):
    """Estimated cost of a job."""

    model: str
    currency: str = "USD"
    epochs: int
    """Epochs behind ``expected``."""
    epochs_low: int
    epochs_high: int
    epochs_rule: str
    """Why this number of epochs: ``requested``, or the rule with its source."""
    tokens_per_epoch: int
    """Billable tokens per epoch."""
    low: float | None
    """``None`` together with ``expected`` and ``high`` if no price is known."""
    expected: float | None
    high: float | None
    price_per_million: float | None
    """Price of one million trained tokens; ``None`` if it is not known."""
    price_as_of: str | None
    """Date of the price, ISO 8601."""
    source: str
    """Where the price was read."""
    warning: str = ""
    """Says that the price is unknown or old; otherwise empty."""
    is_lower_bound: bool = False
    """The tokens are a lower bound (``TokenStats.lower_bound_examples``), so the job can cost more than ``high``."""

    @property
    def at_least(self) -> str:
        """``at least`` and a space before the amounts if they are lower bounds, else nothing."""
        return "at least " if self.is_lower_bound else ""


class Summary(Record):
    """Exact numbers of findings, including those that are not listed."""

    errors: int = 0
    warnings: int = 0
    infos: int = 0
    counts: dict[str, int] = Field(default_factory=dict)
    """Rule code → exact number of findings."""


class HistogramBin(Record):
    """One bar of a histogram."""

    label: str
    count: int
    """Records."""


class DatasetHistograms(Record):
    """The distributions of a dataset, for the HTML report."""

    tokens: tuple[HistogramBin, ...] = ()
    """Records by all their tokens."""
    trained: tuple[HistogramBin, ...] = ()
    """Records by their trained tokens."""
    turns: tuple[HistogramBin, ...] = ()
    """Records by their messages."""
    labels: tuple[HistogramBin, ...] = ()
    """Records by their short answer, the most frequent first; empty if the answers are not labels."""
    billable: dict[int, int] = Field(default_factory=dict)
    """Limit in tokens per example → tokens per epoch that are billed, each example cut at the limit."""


class Report(Record):
    """The result of checking a dataset."""

    dataset: Dataset
    validation: Dataset | None = None
    """The validation file, if there is one."""
    target: str
    """Whose rules were applied: a profile's ``target``, for example ``openai``."""
    method: Method
    model: str = ""
    """Base model of the rules and counts."""
    findings: tuple[Finding, ...] = ()
    """The first findings of each rule, in order of line; ``summary.counts`` has the exact numbers."""
    summary: Summary = Summary()
    not_checked: tuple[str, ...] = ()
    """Checks that were skipped, each with the command that installs the missing package."""
    tokens: TokenStats | None = None
    validation_tokens: TokenStats | None = None
    cost: CostEstimate | None = None
    histograms: DatasetHistograms | None = None
    """Of the training file."""

    @property
    def ok(self) -> bool:
        """Whether the target accepts the dataset."""
        return self.summary.errors == 0
