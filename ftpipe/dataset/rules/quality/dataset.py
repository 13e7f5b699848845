"""FT8: quality of the dataset as a whole, which no single record shows."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation, escape_preview
from ftpipe.dataset.scan.statistics import ScanStatistics

GROUP = RuleGroup("Quality")
rule = GROUP.rule
_CHAT = frozenset({"chat"})
_CHAT_OR_DPO = frozenset({"chat", "dpo"})
"""Without reinforcement files: their prompts use one template on purpose."""
MAX_LABEL_SHARE = 0.8
MIN_JSON_SHARE = 0.9
MIN_SYSTEM_SHARE = 0.9
MIN_SYSTEM_SIMILARITY = 0.9


def with_weights(lines: list[int], number: int) -> Iterator[tuple[int, int]]:
    """(line, findings that it counts for) of the stored lines; the last one also counts for those not stored."""
    for index, line in enumerate(lines, 1):
        yield line, 1 if index < len(lines) else 1 + number - len(lines)


@rule(
    "FT801",
    "exact-duplicate",
    "warning",
    "Q",
    "inferred",
    scope="file",
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "keep the first one"),
)
def exact_duplicate(stats: ScanStatistics) -> Iterator[Violation]:
    """A record is in the file more than once.

    Why: It is trained once for each copy, and copies make the validation unreliable.
    Fix: Keep one copy.
    Source: brewslm.com; practice.
    """
    for line, first, weight in stats.duplicates.with_weights():
        yield Violation("", f"The record is the same as line {first}.", line=line, weight=weight)


@rule(
    "FT802",
    "near-duplicate",
    "warning",
    "Q",
    "inferred",
    scope="file",
    formats=_CHAT_OR_DPO,
    fix=("unsafe", "keep the first one"),
)
def near_duplicate(stats: ScanStatistics) -> Iterator[Violation]:
    """A record is nearly identical to another one (MinHash over word triples, 90 % or more).

    Why: Many copies of one template teach the template.
    Fix: Keep the best one, or vary the content.
    Source: practice.
    """
    for line, other, alike in stats.near_duplicates:
        yield Violation("", f"The record is {alike:.0%} similar to line {other}.", line=line)


@rule("FT803", "conflicting-answers", "warning", "Q", "inferred", scope="file", formats=_CHAT)
def conflicting_answers(stats: ScanStatistics) -> Iterator[Violation]:
    """The same prompt has different answers.

    Why: The model learns a mixture. For labels and facts that is wrong; for intended variety it is fine.
    Fix: Choose one answer, or ignore the finding and give a reason.
    Source: learnixo.io; practice.
    """
    for line, first, weight in stats.conflicts.with_weights():
        yield Violation(
            "", f"The prompt is the same as at line {first}, but the answer differs.", line=line, weight=weight
        )


@rule("FT804", "label-imbalance", "info", "Q", "inferred", scope="file", formats=_CHAT)
def label_imbalance(stats: ScanStatistics) -> Iterator[Violation]:
    """The answers are labels, and one label makes up more than 80 % of the records.

    Why: A model that always answers with this label is nearly always right, and that is easy to learn.
    Fix: Add records with the other labels.
    Source: practice.
    """
    content = stats.content
    if content.are_labels:
        label, number = content.labels.most_common(1)[0]
        if number / content.answers > MAX_LABEL_SHARE:
            yield Violation(
                "", f"'{escape_preview(label, 40)}' is the answer of {number / content.answers:.0%} of the records."
            )


@rule("FT806", "similar-system-prompts", "info", "Q", "inferred", scope="file", formats=_CHAT)
def similar_system_prompts(stats: ScanStatistics) -> Iterator[Violation]:
    """Several system prompts are nearly identical.

    Why: Such differences are usually accidental (a date, a comma), and requests use one system prompt.
    Fix: Use one text.
    Source: practice.
    """
    common = [text for text, _ in stats.content.systems.most_common(30)]
    if len(common) < 2:
        return
    from rapidfuzz.distance import Indel

    similar = [
        other
        for other in common[1:]
        if Indel.normalized_similarity(common[0][:500], other[:500], score_cutoff=MIN_SYSTEM_SIMILARITY)
        >= MIN_SYSTEM_SIMILARITY
    ]
    if similar:
        yield Violation(
            "messages[0].content",
            f"{len(similar)} system prompt(s) are nearly identical to the most common one.",
            escape_preview(similar[0], 120),
        )


@rule("FT808", "answer-not-json", "warning", "Q", "inferred", scope="file", formats=_CHAT)
def answer_not_json(stats: ScanStatistics) -> Iterator[Violation]:
    """More than 90 % of the answers are JSON, but this one is not.

    Why: The model learns that other formats are allowed.
    Fix: Correct the answer.
    Source: practice.
    """
    content = stats.content
    if content.answers >= 10 and MIN_JSON_SHARE < content.json_answers / content.answers < 1:
        for line, weight in with_weights(content.lines_without_json, content.answers - content.json_answers):
            yield Violation("", "The answer is not JSON, but nearly all others are.", line=line, weight=weight)


@rule(
    "FT815",
    "sorted-by-label",
    "info",
    "Q",
    "inferred",
    scope="file",
    formats=_CHAT,
    fix=("unsafe", "shuffle the records"),
)
def sorted_by_label(stats: ScanStatistics) -> Iterator[Violation]:
    """The records are sorted by label.

    Why: Each batch then contains only one label; not every service shuffles.
    Fix: Shuffle the file.
    Source: practice.
    """
    content = stats.content
    if content.are_labels and content.answers >= 40 and content.label_changes < 2 * len(content.labels):
        labels, changes = len(content.labels), content.label_changes
        yield Violation("", f"The {labels} labels change only {changes} times in {content.answers:,} records.")


@rule("FT817", "missing-system-message", "warning", "Q", "inferred", scope="file", formats=_CHAT)
def missing_system_message(stats: ScanStatistics) -> Iterator[Violation]:
    """The record has no system message, but nearly all others have one.

    Why: It was probably forgotten; the model learns to behave this way without its instructions.
    Fix: Add the system message.
    Source: practice; also the best-practices guide, 2026-07-15 (train with the prompts that you will use).
    """
    content = stats.content
    total = content.with_system + content.without_system
    if total >= 10 and MIN_SYSTEM_SHARE <= content.with_system / total < 1:
        message = "There is no system message, but nearly all other records have one."
        for line, weight in with_weights(content.lines_without_system, content.without_system):
            yield Violation("messages[0].role", message, line=line, weight=weight)
