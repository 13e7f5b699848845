"""FT8, what only shows among all records."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation, escape_preview
from ftpipe.dataset.scan.statistics import ScanStatistics

FAMILY = RuleGroup("Quality")
rule = FAMILY.rule
_CHAT = frozenset({"chat"})
_SPOKEN = frozenset({"chat", "dpo"})
"""Reinforcement files are left out: their prompts are made from one template on purpose."""
BALANCE_SHARE = 0.8
JSON_SHARE = 0.9
SYSTEM_SHARE = 0.9
NEAR_SYSTEMS = 0.9


def with_rest(lines: list[int], number: int) -> Iterator[tuple[int, int]]:
    """(line, findings that it stands for) of the lines that are kept; the last stands for those beyond, too."""
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
    fix=("unsafe", "keep the first"),
)
def exact_duplicate(stats: ScanStatistics) -> Iterator[Violation]:
    """A record stands in the file more than once.

    Why: It is trained as often as it stands there, and validation measures it wrongly.
    Fix: Keep one.
    Source: brewslm.com; practice.
    """
    for line, first, weight in stats.duplicates.with_weights():
        yield Violation("", f"The record is that of line {first} again.", line=line, weight=weight)


@rule(
    "FT802",
    "near-duplicate",
    "warning",
    "Q",
    "inferred",
    scope="file",
    formats=_SPOKEN,
    fix=("unsafe", "keep the first"),
)
def near_duplicate(stats: ScanStatistics) -> Iterator[Violation]:
    """A record is nearly another one (MinHash over word triples, 90 % or more).

    Why: Near copies of one template teach the template.
    Fix: Keep the best one, or vary what they say.
    Source: practice.
    """
    for line, other, alike in stats.near_duplicates:
        yield Violation("", f"The record is {alike:.0%} alike with line {other}.", line=line)


@rule("FT803", "conflicting-answers", "warning", "Q", "inferred", scope="file", formats=_CHAT)
def conflicting_answers(stats: ScanStatistics) -> Iterator[Violation]:
    """The same prompt has different answers.

    Why: The model learns a mixture; for labels and facts that is wrong, for wanted variety it is fine.
    Fix: Settle on one answer, or ignore the finding with a reason.
    Source: learnixo.io; practice.
    """
    for line, first, weight in stats.conflicts.with_weights():
        yield Violation("", f"The prompt is that of line {first}, the answer is another one.", line=line, weight=weight)


@rule("FT804", "label-imbalance", "info", "Q", "inferred", scope="file", formats=_CHAT)
def label_imbalance(stats: ScanStatistics) -> Iterator[Violation]:
    """The answers are labels, and one label has more than 80 % of the records.

    Why: Always giving that label is nearly right, and easily learnt.
    Fix: Add records of the other labels.
    Source: practice.
    """
    content = stats.content
    if content.are_labels:
        label, number = content.labels.most_common(1)[0]
        if number / content.answers > BALANCE_SHARE:
            yield Violation(
                "", f"'{escape_preview(label, 40)}' is the answer of {number / content.answers:.0%} of the records."
            )


@rule("FT806", "system-prompt-drift", "info", "Q", "inferred", scope="file", formats=_CHAT)
def system_prompt_drift(stats: ScanStatistics) -> Iterator[Violation]:
    """There are several nearly equal system prompts.

    Why: They differ by accident (a date, a comma), and at use there is one.
    Fix: Use one text.
    Source: practice.
    """
    common = [text for text, _ in stats.content.systems.most_common(30)]
    if len(common) < 2:
        return
    from rapidfuzz.distance import Indel

    near = [
        other
        for other in common[1:]
        if Indel.normalized_similarity(common[0][:500], other[:500], score_cutoff=NEAR_SYSTEMS) >= NEAR_SYSTEMS
    ]
    if near:
        yield Violation(
            "messages[0].content",
            f"{len(near)} system prompt(s) nearly equal the usual one.",
            escape_preview(near[0], 120),
        )


@rule("FT808", "json-answer-broken", "warning", "Q", "inferred", scope="file", formats=_CHAT)
def json_answer_broken(stats: ScanStatistics) -> Iterator[Violation]:
    """More than 90 % of the answers are JSON, this one is not.

    Why: The model learns that the format may be left.
    Fix: Repair the answer.
    Source: practice.
    """
    content = stats.content
    if content.answers >= 10 and JSON_SHARE < content.json_answers / content.answers < 1:
        for line, weight in with_rest(content.other_answers, content.answers - content.json_answers):
            yield Violation("", "The answer is not JSON; nearly all others are.", line=line, weight=weight)


@rule("FT815", "sorted-set", "info", "Q", "inferred", scope="file", formats=_CHAT, fix=("safe", "shuffle with a seed"))
def sorted_set(stats: ScanStatistics) -> Iterator[Violation]:
    """The records are sorted by label.

    Why: Batches then hold one label each; not every service shuffles.
    Fix: Shuffle the file.
    Source: practice.
    """
    content = stats.content
    if content.are_labels and content.answers >= 40 and content.changes < 2 * len(content.labels):
        yield Violation(
            "", f"The {len(content.labels)} labels change only {content.changes} times in {content.answers:,} records."
        )


@rule("FT817", "missing-system", "warning", "Q", "inferred", scope="file", formats=_CHAT)
def missing_system(stats: ScanStatistics) -> Iterator[Violation]:
    """The record has no system message, nearly all others have one.

    Why: It is usually forgotten; the model learns to behave so without its instructions.
    Fix: Add the system message.
    Source: practice; also best-practices guide, 2026-07-15 (train as you will prompt).
    """
    content = stats.content
    total = content.with_system + content.without
    if total >= 10 and SYSTEM_SHARE <= content.with_system / total < 1:
        message = "There is no system message; nearly all other records have one."
        for line, weight in with_rest(content.without_system, content.without):
            yield Violation("messages[0].role", message, line=line, weight=weight)
