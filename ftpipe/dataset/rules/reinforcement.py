"""FT6: reinforcement files (gone at OpenAI, alive at Azure and locally)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ftpipe.dataset.formats import RFT_RESERVED
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.rules.base import RuleGroup, Violation, escape_preview
from ftpipe.dataset.scan.statistics import ScanStatistics

FAMILY = RuleGroup("Reinforcement")
rule = FAMILY.rule
_RFT = frozenset({"rft"})
MAX_EXAMPLES = {"train": 50_000, "validation": 1_000}
MIN_REFERENCE = 8
_WORDS = re.compile(r"[^\W\d_]{3,}")


@rule("FT601", "rft-last-not-user", "error", "D", "documented", formats=_RFT, nebius="warning", local="warning")
def rft_last_not_user(row: DatasetRecord) -> Iterator[Violation]:
    """The dialogue does not end with the user.

    Why: The model answers and the answer is graded; nothing may stand in its place.
    Fix: Drop what follows the last user message, or put it into a reference key.
    Source: Azure reinforcement fine-tuning page, 2026-07.
    """
    for base, messages in row.lists:
        last = messages[-1] if type(messages) is list and messages else None
        if type(last) is dict and last.get("role") not in ("user", "tool"):
            yield Violation(
                f"{base}[{len(messages) - 1}].role",
                f"The last message is from '{escape_preview(last.get('role'), 20)}'.",
            )


@rule("FT602", "rft-system-role", "error", "R", "inferred", formats=_RFT, fix=("safe", "use developer"), local="off")
def rft_system_role(row: DatasetRecord) -> Iterator[Violation]:
    """A reinforcement file uses the role system.

    Why: Its schema has developer there.
    Fix: Use the role developer.
    Source: Azure, second-hand; OpenAI API description of 2025-05-20 has developer only.
    """
    for base, index, message in row.messages():
        if message.get("role") == "system":
            yield Violation(f"{base}[{index}].role", "The role system is not in the reinforcement schema.")


@rule("FT603", "rft-missing-reference", "error", "D", "documented", formats=_RFT)
def rft_missing_reference(row: DatasetRecord) -> Iterator[Violation]:
    """A key that the grader reads is missing in the record.

    Why: The grader fails on the record. Without a grader, a key that all first records have is expected.
    Fix: Add the key.
    Source: Azure reinforcement fine-tuning page, 2026-07 ({{item.KEY}}).
    """
    for key in row.file.grader_fields:
        if key not in row.record:
            yield Violation(key, f"The reference key '{escape_preview(key, 40)}' is missing.")


@rule("FT604", "rft-no-validation", "error", "D", "documented", scope="file", formats=_RFT, local="off")
def rft_no_validation(stats: ScanStatistics) -> Iterator[Violation]:
    """A reinforcement job has no validation file.

    Why: Both files are required. Raised for a job, not for the file alone.
    Fix: Split one off: ``ftpipe split FILE``.
    Source: Azure reinforcement fine-tuning page, 2026-07.
    """
    if stats.file.for_job and not stats.file.has_validation and stats.file.role == "train":
        yield Violation("", "There is no validation file.")


@rule("FT606", "rft-answer-in-prompt", "warning", "Q", "inferred", formats=_RFT)
def rft_answer_in_prompt(row: DatasetRecord) -> Iterator[Violation]:
    """A reference text of eight characters or more stands in the prompt.

    Why: The model can copy the answer instead of finding it.
    Fix: Take it out of the prompt.
    Source: practice; short references and numbers are let pass, since tasks often quote them.
    """
    prompt = "\n".join(text.value for text in row.texts)
    for key, value in row.record.items():
        if key in RFT_RESERVED or type(value) is not str or len(value) < MIN_REFERENCE or not _WORDS.search(value):
            continue
        if value in prompt:
            yield Violation(key, "The reference text stands in the prompt.", escape_preview(value, 80))


@rule("FT607", "rft-too-many", "error", "D", "documented", scope="file", formats=_RFT, local="off")
def rft_too_many(stats: ScanStatistics) -> Iterator[Violation]:
    """A reinforcement file has more than 50,000 training or 1,000 validation examples.

    Why: The service refuses it.
    Fix: Leave examples out.
    Source: OpenAI reinforcement guide, 2026-07-15.
    """
    limit = MAX_EXAMPLES[stats.file.role]
    if stats.examples > limit:
        yield Violation("", f"The file has {stats.examples:,} examples; {limit:,} are the limit.")
