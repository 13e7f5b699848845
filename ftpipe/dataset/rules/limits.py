"""FT7: size, split, money and deadlines."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from ftpipe.catalog.base_models import find_base
from ftpipe.catalog.budget import CostQuote, budget_violation
from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation
from ftpipe.dataset.scan.statistics import OverlongRecord, ScanStatistics

FAMILY = RuleGroup("Size, split, money, deadline")
rule = FAMILY.rule

SOON_DAYS, NEAR_DAYS = 14, 90
HEAVY_TOKENS = 300


@rule(
    "FT701",
    "example-over-limit",
    "error",
    "S",
    "documented",
    scope="long",
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "drop the record"),
)
def example_over_limit(row: OverlongRecord) -> Iterator[Violation]:
    """An example has more tokens than the target trains on.

    Why: What is beyond the limit is cut from the end, without a word: the answer is what gets lost.
    Fix: Shorten or split the example.
    Source: OpenAI best-practices guide, 2026-07-15.
    """
    yield Violation("", f"The example has {row.tokens:,} tokens; {row.limit:,} are read.")


@rule("FT702", "answer-truncated", "error", "S", "documented", scope="long", formats=MESSAGE_FORMATS)
def answer_truncated(row: OverlongRecord) -> Iterator[Violation]:
    """The cut at the token limit reaches an answer.

    Why: The model learns an answer that breaks off in the middle, or none at all.
    Fix: Shorten what comes before the answer.
    Source: OpenAI best-practices guide, 2026-07-15.
    """
    if row.last_role == "assistant":
        yield Violation(
            row.last_path, f"The last {row.tokens - row.limit:,} tokens are cut, and the example ends with an answer."
        )


@rule(
    "FT703",
    "train-valid-overlap",
    "error",
    "D",
    "documented",
    scope="file",
    fix=("unsafe", "drop it from the validation file"),
)
def train_valid_overlap(stats: ScanStatistics) -> Iterator[Violation]:
    """A record, or its prompt, stands in the training file and in the validation file.

    Why: The validation loss then measures memory, and the API says that the two must not share data.
    Fix: Drop it from one of the files, or split anew: ``ftpipe prepare FILE --split 0.1`` keeps equal prompts together.
    Source: OpenAI API description, validation_file, 2026-08-21.
    """
    for line, other, what in stats.overlap:
        yield Violation("", f"The same {what} stands in the training file at line {other}.", line=line)


@rule("FT704", "train-valid-near-dup", "warning", "Q", "inferred", scope="file")
def train_valid_near_dup(stats: ScanStatistics) -> Iterator[Violation]:
    """A validation record is nearly a training record (MinHash, 90 % or more).

    Why: The validation loss then measures memory.
    Fix: Drop it from one of the files.
    Source: brewslm.com; practice.
    """
    for line, other, alike in stats.near_overlap:
        yield Violation("", f"The record is {alike:.0%} alike with line {other} of the training file.", line=line)


@rule("FT705", "eval-leak", "error", "Q", "inferred", scope="file")
def eval_leak(stats: ScanStatistics) -> Iterator[Violation]:
    """A record, or its prompt, of the held-out test file stands in the training file.

    Why: The score of the tuned model is then worth nothing.
    Fix: Drop it from the training file.
    Source: practice.
    """
    for line, other, what in stats.leaks:
        yield Violation("", f"The same {what} stands in the test file at line {line}.", line=other)


@rule("FT706", "token-outlier", "info", "Q", "inferred", scope="file")
def token_outlier(stats: ScanStatistics) -> Iterator[Violation]:
    """An example is far longer than the others: three times the 99th percentile, in small files ten times the median.

    Why: It is often an accident (a pasted page, a loop), and it decides the memory that training needs.
    Fix: Look at it; shorten or drop it.
    Source: practice.
    """
    bound, rule_name = stats.tokens.outlier_bound()
    for tokens, line in stats.tokens.longest_first():
        if bound and tokens > bound and not stats.with_images:
            yield Violation("", f"The example has {tokens:,} tokens, more than {bound:,} ({rule_name}).", line=line)


@rule("FT707", "over-budget", "error", "L", "documented", scope="price")
def over_budget(quote: CostQuote) -> Iterator[Violation]:
    """The job may cost more than ``--max-cost`` allows, or its price is not known.

    Why: You set the limit, and the high end of the estimate is what it may come to.
    Fix: Train fewer epochs or on fewer examples, choose a smaller model, or raise the limit.
    Source: the user's own limit, max_cost in ftpipe.toml or --max-cost.
    """
    fault = budget_violation(quote.cost, quote.max_cost)
    if fault:
        yield Violation("", f"{fault[0][0].upper()}{fault[0][1:]}.", hint=f"{fault[1][0].upper()}{fault[1][1:]}.")


@rule("FT708", "stale-price", "warning", "L", "inferred", scope="price")
def stale_price(quote: CostQuote) -> Iterator[Violation]:
    """The price behind the estimate is old, or not known.

    Why: Prices change; an estimate must say what it stands on.
    Fix: Enter today's price: [prices."MODEL"] training = …, as_of = … in ftpipe.toml.
    Source: ftpipe's price table, each row with its date.
    """
    if quote.cost.warning and not quote.billed_by_hour:
        yield Violation("", quote.cost.warning)


@rule("FT709", "validation-size", "info", "Q", "inferred", scope="file")
def validation_size(stats: ScanStatistics) -> Iterator[Violation]:
    """The validation file has fewer than 10 examples, or more than 30 % of the training file's.

    Why: Too few make its loss jump about; too many are missing in training.
    Fix: Use 10 to 20 % of the data.
    Source: practice.
    """
    train = stats.train_examples
    if stats.file.role == "validation" and train and stats.examples:
        share = stats.examples / train
        if stats.examples < 10 or share > 0.3:
            yield Violation(
                "", f"The validation file has {stats.examples} examples ({share:.0%} of the training file's {train})."
            )


@rule("FT710", "base-sunset", "warning", "D", "documented", scope="file")
def base_sunset(stats: ScanStatistics) -> Iterator[Violation]:
    """The base model is shut down soon, or already is.

    Why: A fine-tuned model ends with its base.
    Fix: Choose a base that lives longer, or another provider.
    Source: OpenAI deprecations page (entries up to 2026-11-05); Azure retirement page, 2026-07-07.
    """
    base = find_base(stats.file.model) if stats.file.model else None
    day: dt.date | None = base.shutdown.get(stats.file.target) if base else None
    if base is None or day is None or stats.file.role != "train":
        return
    left = (day - stats.file.today).days
    if left < 0:
        yield Violation("", f"{base.name} was shut down on {day}.", level="error")
    elif left < NEAR_DAYS:
        yield Violation(
            "",
            f"{base.name} and every model made from it stop on {day}, in {left} days.",
            level="error" if left < SOON_DAYS else None,
        )


@rule("FT711", "prompt-heavy", "info", "Q", "inferred", scope="file", formats=frozenset({"chat"}))
def prompt_heavy(stats: ScanStatistics) -> Iterator[Violation]:
    """More than 70 % of the tokens are never trained, in a file whose examples have 300 tokens or more.

    Why: You pay for the prompt tokens of every epoch; a long fixed system prompt is the usual reason.
    Fix: Shorten the system prompt; the tuned model needs less of it.
    Source: OpenAI best-practices guide, 2026-07-15 (shorter prompts).
    """
    total, trained = stats.tokens.total, stats.tokens.trained
    is_heavy = stats.examples > 0 and total >= HEAVY_TOKENS * stats.examples and not stats.with_images
    if stats.file.role == "train" and is_heavy and trained / total < 0.3:
        yield Violation("", f"{1 - trained / total:.0%} of the {total:,} tokens are prompt.")
