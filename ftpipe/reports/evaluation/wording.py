"""The sentences of an evaluation, the same in every format: verdicts, numbers with their signs, intervals."""

from __future__ import annotations

from ftpipe.formatting import count, plural, sanitize_line
from ftpipe.records.evaluation import ArmResult, Comparison, Evaluation, JudgeResult, Score, TokenPrice

VERDICT_SYMBOLS = {"win": "▲", "loss": "▼", "inconclusive": "="}
"""A sign beside each verdict, so that no colour is needed to read it."""

METRIC_LABELS = {
    "exact": "exact match",
    "normalized": "normalized match",
    "macro_f1": "macro-F1",
    "json_valid": "JSON parses",
    "json_match": "JSON document",
    "json_fields": "JSON fields",
    "schema_valid": "JSON schema",
    "tool_choice": "tool called or not",
    "tool_name": "tool names",
    "tool_match": "tool calls",
    "rouge_l": "ROUGE-L",
    "edit": "edit similarity",
    "chrf": "chrF",
    "grader": "grader",
}


def metric_label(metric: str) -> str:
    """A metric's name for people."""
    return METRIC_LABELS.get(metric, metric)


def latency_conditions(evaluation: Evaluation) -> str:
    """Under which conditions the latencies were taken; empty where that is not known."""
    if evaluation.concurrency is None:
        return ""
    if evaluation.concurrency == 1:
        return "p50 and p95: time to the whole answer, one request after the other."
    return (
        f"p50 and p95: time to the whole answer with up to {evaluation.concurrency} requests at once, "
        "their waiting for each other included."
    )


def format_score(value: float | None) -> str:
    """A score with three digits: ``0.853``; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def format_difference(value: float | None) -> str:
    """A difference with its sign: ``+0.120``, ``−0.034``; a dash where there is none."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def format_interval(low: float | None, high: float | None, *, is_signed: bool = False) -> str:
    """An interval: ``0.786 to 0.957``, ``+0.010 to +0.230``."""
    if low is None or high is None:
        return "no interval"
    word = format_difference if is_signed else format_score
    return f"{word(low)} to {word(high)}"


def format_p(p: float) -> str:
    """A p value: ``0.0386``, ``< 0.0001``."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}".rstrip("0").rstrip(".") if p < 1 else "1"


def verdict_title(comparison: Comparison) -> str:
    """The verdict in a few words: ``tuned is better than base``."""
    challenger, baseline = sanitize_line(comparison.challenger, 80), sanitize_line(comparison.baseline, 80)
    if comparison.verdict == "win":
        return f"{challenger} is better than {baseline}"
    if comparison.verdict == "loss":
        return f"{challenger} is worse than {baseline}"
    return f"Not enough evidence between {challenger} and {baseline}"


def verdict_reason(comparison: Comparison) -> str:
    """What the verdict rests on, in one sentence."""
    interval = format_interval(comparison.low, comparison.high, is_signed=True)
    interval = interval if comparison.low is None else f"{comparison.confidence * 100:g}% interval {interval}"
    sentence = (
        f"{format_difference(comparison.difference)} on {metric_label(comparison.metric)}, {interval}, "
        f"{comparison.method} p = {format_p(comparison.p_value_adjusted)}, {plural(comparison.items, 'item')}."
    )
    return sentence.replace("p = <", "p <")


def more_items(comparison: Comparison) -> str:
    """What it would take to decide, where it is undecided."""
    if comparison.additional_items is None:
        return ""
    if comparison.additional_items == 0:
        return "The test is large enough to have found a difference of two points; the two are about equal."
    if abs(comparison.difference) < 0.02:
        needed = count(comparison.additional_items)
        return f"About {needed} more items would show a difference of two points if it is there."
    return f"About {count(comparison.additional_items)} more items would decide it, if the difference stays as it is."


def judge_sentence(judged: JudgeResult) -> str:
    """What the judge found, with how often it changed its mind."""
    return (
        f"{sanitize_line(judged.model, 80)} preferred {sanitize_line(judged.challenger, 80)} {judged.wins} times and "
        f"{sanitize_line(judged.baseline, 80)} {judged.losses} times, {judged.ties} ties; it changed its mind "
        f"with the order in {judged.flip_rate:.0%} of the pairs; p = {format_p(judged.p_value)}: {judged.verdict}."
    )


def score_cell(score: Score) -> str:
    """A score with its interval."""
    return f"{format_score(score.value)} ({format_interval(score.low, score.high)})"


def ordered_metrics(evaluation: Evaluation) -> list[str]:
    """The metrics in order, the verdict's first."""
    names = [score.metric for score in evaluation.arms[0].scores]
    return sorted(names, key=lambda name: name != evaluation.primary_metric)


def ordered_challengers(evaluation: Evaluation) -> list[str]:
    """The challengers, candidates before controls."""
    return sorted(evaluation.challengers, key=lambda name: name not in evaluation.candidates)


def ordered_comparisons(evaluation: Evaluation) -> list[Comparison]:
    """All comparisons, those on the verdict's metric first."""
    return sorted(evaluation.comparisons, key=lambda one: one.metric != evaluation.primary_metric)


def price_sources(results: tuple[ArmResult, ...]) -> list[str]:
    """Every price row that a cost was reckoned from, once, with day and source."""
    prices = [result.arm.price for result in results if result.arm.price is not None]
    return list(dict.fromkeys(_source(price) for price in prices))


def _source(price: TokenPrice) -> str:
    name, currency = sanitize_line(price.model, 80), sanitize_line(price.currency, 8)
    origin = ", ".join(filter(None, (sanitize_line(price.as_of, 20), sanitize_line(price.source, 160)))) or "no source"
    if not (price.input or price.output):
        return f"{name}: free, {origin}"
    cached = f", cached {price.cached:g}" if price.cached is not None else ""
    return f"{name}: input {price.input:g}{cached}, output {price.output:g} {currency} per million tokens, {origin}"
