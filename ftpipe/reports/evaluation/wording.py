"""Wording of evaluation reports, the same in every format: verdicts, numbers and intervals."""

from __future__ import annotations

from ftpipe.formatting import count, plural, sanitize_line
from ftpipe.records.evaluation import (
    Answer,
    ArmResult,
    Comparison,
    Evaluation,
    JudgeResult,
    Score,
    TokenPrice,
    TrainingOverlap,
)

VERDICT_SYMBOLS = {"win": "▲", "loss": "▼", "equivalent": "=", "inconclusive": "?"}
"""Shown beside each verdict, so that no color is needed to read it."""

METRIC_LABELS = {
    "exact": "exact match",
    "normalized": "normalized match",
    "macro_f1": "macro-F1",
    "json_valid": "valid JSON",
    "json_match": "JSON match",
    "json_fields": "JSON fields",
    "schema_valid": "JSON schema",
    "tool_choice": "tool choice",
    "tool_name": "tool names",
    "tool_match": "tool calls",
    "rouge_l": "ROUGE-L",
    "edit": "edit similarity",
    "chrf": "chrF",
    "grader": "grader",
}


def metric_label(metric: str) -> str:
    """A metric's name as people read it."""
    return METRIC_LABELS.get(metric, metric)


def answer_text(answer: Answer) -> str:
    """An answer as text: its text, its tool calls, or why the request was rejected."""
    calls = "".join(f"\n→ {call.name}({call.arguments})" for call in answer.tool_calls)
    return f"rejected: {answer.error}" if answer.error else (answer.text + calls).strip("\n")


def latency_conditions(evaluation: Evaluation) -> str:
    """How the latencies were measured; empty if unknown."""
    if evaluation.concurrency is None:
        return ""
    if evaluation.concurrency == 1:
        return "p50 and p95: time to the complete answer, one request at a time."
    return (
        f"p50 and p95: time to the complete answer with up to {evaluation.concurrency} concurrent requests, "
        "including the time they wait for each other."
    )


def format_score(value: float | None) -> str:
    """A score with three digits: ``0.853``; a dash if there is none."""
    return "–" if value is None else f"{value:.3f}"


def format_difference(value: float | None) -> str:
    """A difference with its sign: ``+0.120``, ``−0.034``; a dash if there is none."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def format_interval(low: float | None, high: float | None, *, is_signed: bool = False) -> str:
    """An interval: ``0.786 to 0.957``, ``+0.010 to +0.230``."""
    if low is None or high is None:
        return "no interval"
    number = format_difference if is_signed else format_score
    return f"{number(low)} to {number(high)}"


def format_p(p: float) -> str:
    """A p-value: ``0.0386``, ``< 0.0001``."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}".rstrip("0").rstrip(".") if p < 1 else "1"


def _p_equals(p: float) -> str:
    return f"p = {format_p(p)}".replace("= <", "<")


def verdict_title(comparison: Comparison) -> str:
    """The verdict as a short sentence: ``tuned is better than base``."""
    challenger, baseline = sanitize_line(comparison.challenger, 80), sanitize_line(comparison.baseline, 80)
    if comparison.verdict == "win":
        return f"{challenger} is better than {baseline}"
    if comparison.verdict == "loss":
        return f"{challenger} is worse than {baseline}"
    if comparison.verdict == "equivalent":
        return f"{challenger} and {baseline} are about equal"
    return f"Not enough evidence that {challenger} and {baseline} differ"


def verdict_reason(comparison: Comparison) -> str:
    """The figures behind the verdict, in one sentence."""
    interval = format_interval(comparison.low, comparison.high, is_signed=True)
    interval = interval if comparison.low is None else f"{comparison.confidence * 100:g}% interval {interval}"
    return (
        f"{format_difference(comparison.difference)} on {metric_label(comparison.metric)}, {interval}, "
        f"{comparison.method} {_p_equals(comparison.p_value_adjusted)}, {plural(comparison.items, 'item')}."
    )


def verdict_note(comparison: Comparison) -> str:
    """What makes two arms equal, or how many more items an inconclusive comparison needs; empty otherwise."""
    if comparison.verdict == "equivalent":
        return "The whole interval lies within two points of zero."
    if comparison.additional_items is None:
        return ""
    if comparison.additional_items == 0:
        return (
            "By estimate this many items are enough for such a difference, but the test does not confirm it: add items "
            "before you decide."
        )
    if abs(comparison.difference) < 0.02:
        needed = count(comparison.additional_items)
        return f"About {needed} more items are needed to detect a difference of two points."
    return f"About {count(comparison.additional_items)} more items are needed if the difference stays the same."


def overlap_sentence(overlap: TrainingOverlap) -> str:
    """The warning that a model was trained on items, or that this cannot be checked."""
    name = sanitize_line(overlap.arm, 80)
    if overlap.items is None:
        return (
            f"It cannot be checked whether items are in the training data of {name}: its file is not there any more, "
            "or was changed."
        )
    verb = "is" if overlap.items == 1 else "are"
    return (
        f"Warning: {overlap.items:,} of {plural(overlap.total, 'item')} {verb} in the training data of {name}, so the "
        "verdict does not tell how it answers new prompts."
    )


def judge_sentence(result: JudgeResult) -> str:
    """The judge's preferences, and how often they changed with the order."""
    return (
        f"The judge {sanitize_line(result.model, 80)} preferred {sanitize_line(result.challenger, 80)} in "
        f"{plural(result.wins, 'pair')} and {sanitize_line(result.baseline, 80)} in {result.losses}, with "
        f"{plural(result.ties, 'tie')} ({_p_equals(result.p_value)}: {result.verdict}). "
        f"Its preference changed with the order in {result.flip_rate:.0%} of the pairs that differ."
    )


def score_cell(score: Score) -> str:
    """A score with its interval."""
    return f"{format_score(score.value)} ({format_interval(score.low, score.high)})"


def ordered_metrics(evaluation: Evaluation) -> list[str]:
    """The metrics in order, the primary one first."""
    names = [score.metric for score in evaluation.arms[0].scores]
    return sorted(names, key=lambda name: name != evaluation.primary_metric)


def ordered_challengers(evaluation: Evaluation) -> list[str]:
    """The challengers, candidates before controls."""
    return sorted(evaluation.challengers, key=lambda name: name not in evaluation.candidates)


def ordered_comparisons(evaluation: Evaluation) -> list[Comparison]:
    """All comparisons, those on the primary metric first."""
    return sorted(evaluation.comparisons, key=lambda comparison: comparison.metric != evaluation.primary_metric)


def price_sources(results: tuple[ArmResult, ...]) -> list[str]:
    """Every price row behind a cost, once, with date and source."""
    prices = [result.arm.price for result in results if result.arm.price is not None]
    return list(dict.fromkeys(_price_text(price) for price in prices))


def _price_text(price: TokenPrice) -> str:
    name, currency = sanitize_line(price.model, 80), sanitize_line(price.currency, 8)
    origin = ", ".join(filter(None, (sanitize_line(price.as_of, 20), sanitize_line(price.source, 160)))) or "no source"
    if not (price.input or price.output):
        return f"{name}: free, {origin}"
    cached = f", cached {price.cached:g}" if price.cached is not None else ""
    return f"{name}: input {price.input:g}{cached}, output {price.output:g} {currency} per million tokens, {origin}"
