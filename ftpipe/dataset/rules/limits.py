"""FT7: token limits, splits, cost and shutdown dates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from ftpipe.catalog.base_models import find_base
from ftpipe.catalog.budget import CostQuote, budget_violation
from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation
from ftpipe.dataset.scan.statistics import OverlongRecord, ScanStatistics
from ftpipe.formatting import plural

GROUP = RuleGroup("Limits, split, cost, shutdown dates")
rule = GROUP.rule

ERROR_DAYS, WARNING_DAYS = 14, 90
"""Days before a shutdown."""
TRAIN_ANYWAY = (
    "Choose a base model that stays available longer, or another provider. To train on it all the same, set "
    'ignore = ["FT710"] under [checks] in ftpipe.toml.'
)
MIN_MEAN_TOKENS = 300


@rule(
    "FT701",
    "example-over-token-limit",
    "error",
    "S",
    "documented",
    scope="long",
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "remove the record"),
)
def example_over_token_limit(row: OverlongRecord) -> Iterator[Violation]:
    """An example has more tokens than the target trains on.

    Why: Tokens beyond the limit are cut from the end without a message, and the answer is at the end. Fireworks leaves
        such examples out.
    Fix: Shorten the example, or make several of it. For local training --max-length can also be raised.
    Source: OpenAI best-practices guide, 2026-07-15; local: the limit of the trainer, counted with the base model's
        tokenizer if the model is on this machine.
    """
    what = (
        f"the limit is {row.limit:,}, and it is left out"
        if row.is_dropped
        else f"only the first {row.limit:,} are used"
    )
    message = f"The example has {row.tokens:,} tokens; {what}."
    yield Violation("", message, level="warning" if row.is_local and not row.cuts_answer else None)


@rule("FT702", "answer-truncated", "error", "S", "documented", scope="long", formats=MESSAGE_FORMATS)
def answer_truncated(row: OverlongRecord) -> Iterator[Violation]:
    """The cut at the token limit removes a part of an answer.

    Why: The model learns an answer that stops in the middle, or no answer at all. The local trainer refuses the row.
    Fix: Shorten the text before the answer. For local training --max-length can also be raised.
    Source: OpenAI best-practices guide, 2026-07-15.
    """
    if row.cuts_answer and not row.is_dropped:
        what = "with the end of an answer" if row.is_local else "and the example ends with an answer"
        yield Violation(row.last_path, f"The last {row.tokens - row.limit:,} tokens are cut, {what}.")


@rule(
    "FT703",
    "train-validation-overlap",
    "error",
    "D",
    "documented",
    scope="file",
    fix=("unsafe", "remove it from the validation file"),
)
def train_validation_overlap(stats: ScanStatistics) -> Iterator[Violation]:
    """A record or its prompt is in the training file and in the validation file.

    Why: The validation loss then measures memorization, and the API says that the two files must not share data.
    Fix: Remove it from one of the files, or put all records into one file and split that:
        ``ftpipe prepare FILE --split 0.1`` keeps equal prompts together.
    Source: OpenAI API description, validation_file, 2026-08-21.
    """
    for line, other, what in stats.overlap:
        yield Violation("", f"The same {what} is at line {other} of the training file.", line=line)


@rule("FT704", "train-validation-near-duplicate", "warning", "Q", "inferred", scope="file")
def train_validation_near_duplicate(stats: ScanStatistics) -> Iterator[Violation]:
    """A validation record is nearly identical to a training record (MinHash, 90 % or more).

    Why: The validation loss then measures memorization.
    Fix: Remove it from one of the files.
    Source: brewslm.com; practice.
    """
    for line, other, alike in stats.near_overlap:
        yield Violation("", f"The record is {alike:.0%} similar to line {other} of the training file.", line=line)


@rule("FT705", "holdout-leak", "error", "Q", "inferred", scope="file")
def holdout_leak(stats: ScanStatistics) -> Iterator[Violation]:
    """A record of the holdout file, or its prompt, is in the training file.

    Why: The score of the tuned model on the holdout file is then meaningless.
    Fix: Remove it from the training file.
    Source: practice.
    """
    for line, other, what in stats.leaks:
        yield Violation("", f"The same {what} is at line {line} of the holdout file.", line=other)


@rule("FT706", "token-outlier", "info", "Q", "inferred", scope="file")
def token_outlier(stats: ScanStatistics) -> Iterator[Violation]:
    """An example is far longer than the rest: 3 times the 99th percentile; in small files 10 times the median.

    Why: It is often a mistake (a pasted page, a loop), and it determines the memory that training needs.
    Fix: Check it; shorten or remove it.
    Source: practice.
    """
    bound, rule_name = stats.tokens.outlier_bound()
    for tokens, line in stats.tokens.longest_first():
        if bound and tokens > bound and not stats.with_images:
            yield Violation("", f"The example has {tokens:,} tokens, more than {bound:,} ({rule_name}).", line=line)


@rule("FT707", "over-budget", "error", "L", "documented", scope="price")
def over_budget(quote: CostQuote) -> Iterator[Violation]:
    """The job can cost more than ``--max-cost`` allows, or its price is not known.

    Why: You set the limit, and the job can cost as much as the high end of the estimate.
    Fix: Train fewer epochs or on fewer examples, choose a smaller model, or raise the limit.
    Source: your own limit: max_cost in ftpipe.toml, or --max-cost.
    """
    fault = budget_violation(quote.cost, quote.max_cost)
    if fault:
        yield Violation("", f"{fault[0][0].upper()}{fault[0][1:]}.", hint=f"{fault[1][0].upper()}{fault[1][1:]}.")


@rule("FT708", "stale-price", "warning", "L", "inferred", scope="price")
def stale_price(quote: CostQuote) -> Iterator[Violation]:
    """A price in ftpipe.toml is more than 60 days old, or has no date.

    Why: Prices change, and the estimate is only as good as its price. ``ftpipe doctor`` tells the age of ftpipe's own.
    Fix: Enter today's price: [prices."MODEL"] training = …, as_of = … in ftpipe.toml.
    Source: your own configuration; each price has a date.
    """
    if quote.cost.warning and quote.cost.price_per_million is not None and not quote.billed_by_hour:
        yield Violation("", quote.cost.warning)


MIN_VALIDATION_EXAMPLES, FEW_VALIDATION_EXAMPLES, MAX_VALIDATION_SHARE = 10, 5, 0.25
"""Of a file with fewer than the second no share is too large."""


@rule("FT709", "validation-size", "info", "Q", "inferred", scope="file")
def validation_size(stats: ScanStatistics) -> Iterator[Violation]:
    """The validation file has fewer than 10 examples, or more than 25 % of all.

    Why: With too few examples the validation loss fluctuates; too many are missing from the training. Of fewer than 40
    examples in all, 10 would be too many, so that a few are enough.
    Fix: Use 10 to 20 % of the data.
    Source: practice.
    """
    train = stats.train_examples
    if stats.file.role == "validation" and train and stats.examples:
        total = train + stats.examples
        share = stats.examples / total
        is_too_small = stats.examples < MIN_VALIDATION_EXAMPLES <= MAX_VALIDATION_SHARE * total
        is_too_large = stats.examples >= FEW_VALIDATION_EXAMPLES and share > MAX_VALIDATION_SHARE
        if is_too_small or is_too_large:
            yield Violation("", f"The validation file has {stats.examples} examples ({share:.0%} of all {total}).")


@rule("FT710", "base-model-shutdown", "warning", "D", "documented", scope="file")
def base_model_shutdown(stats: ScanStatistics) -> Iterator[Violation]:
    """The base model will be shut down soon, or already is.

    Why: A fine-tuned model stops working with its base model.
    Fix: Choose a base model that stays available longer, or another provider.
    Source: OpenAI deprecations page (entries up to 2026-11-05); Azure retirement page, 2026-07-07.
    """
    base = find_base(stats.file.model) if stats.file.model else None
    day: dt.date | None = base.shutdown.get(stats.file.target) if base else None
    if base is None or day is None or stats.file.role != "train":
        return
    days_left = (day - stats.file.today).days
    if days_left < 0:
        yield Violation("", f"{base.name} was shut down on {day}.", level="error")
    elif days_left < WARNING_DAYS:
        yield Violation(
            "",
            f"{base.name} and all models fine-tuned from it stop working on {day}, in {plural(days_left, 'day')}.",
            level="error" if days_left < ERROR_DAYS else None,
            hint=TRAIN_ANYWAY if days_left < ERROR_DAYS else "",
        )


@rule("FT711", "mostly-prompt-tokens", "info", "Q", "inferred", scope="file", formats=frozenset({"chat"}))
def mostly_prompt_tokens(stats: ScanStatistics) -> Iterator[Violation]:
    """More than 70 % of the tokens are prompt tokens, and the examples have 300 or more tokens on average.

    Why: You pay for the prompt tokens in every epoch; the usual cause is a long system prompt that never changes.
    Fix: Shorten the system prompt; the tuned model needs less of it.
    Source: OpenAI best-practices guide, 2026-07-15 (shorter prompts).
    """
    total, trained = stats.tokens.total, stats.tokens.trained
    is_heavy = stats.examples > 0 and total >= MIN_MEAN_TOKENS * stats.examples and not stats.with_images
    if stats.file.role == "train" and is_heavy and trained / total < 0.3:
        yield Violation("", f"{1 - trained / total:.0%} of the {total:,} tokens are prompt tokens.")
