"""FT6: reinforcement files (no longer at OpenAI, but at Azure and Amazon Bedrock)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ftpipe.dataset.formats import RFT_RESERVED
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.rules.base import RuleGroup, Violation, escape_preview
from ftpipe.dataset.rules.messages.turns import role_text
from ftpipe.dataset.scan.statistics import ScanStatistics

GROUP = RuleGroup("Reinforcement")
rule = GROUP.rule
_RFT = frozenset({"rft"})
MAX_EXAMPLES = {"train": 50_000, "validation": 1_000}
MIN_REFERENCE_CHARACTERS = 8
_WORDS = re.compile(r"[^\W\d_]{3,}")


@rule("FT601", "rft-last-message-not-user", "error", "D", "documented", formats=_RFT, nebius="warning", local="warning")
def rft_last_message_not_user(row: DatasetRecord) -> Iterator[Violation]:
    """The conversation does not end with a user message.

    Why: The model writes the answer, which is then graded, so the data must not contain one.
    Fix: Remove what follows the last user message, or move it to a reference key.
    Source: Azure reinforcement fine-tuning page, 2026-07.
    """
    for base, messages in row.lists:
        last = messages[-1] if type(messages) is list and messages else None
        if type(last) is dict and last.get("role") not in ("user", "tool"):
            yield Violation(
                f"{base}[{len(messages) - 1}].role",
                f"The last message has {role_text(last)}, not 'user'.",
            )


@rule(
    "FT602",
    "rft-system-role",
    "error",
    "R",
    "inferred",
    formats=_RFT,
    fix=("safe", "use developer"),
    bedrock="off",
    local="off",
)
def rft_system_role(row: DatasetRecord) -> Iterator[Violation]:
    """A reinforcement file uses the role system.

    Why: The schema of these files has the role developer instead.
    Fix: Use the role developer.
    Source: Azure, second-hand; the OpenAI API description of 2025-05-20 has developer only.
    """
    for base, index, message in row.messages():
        if message.get("role") == "system":
            yield Violation(f"{base}[{index}].role", "The role system is not part of the reinforcement schema.")


@rule("FT603", "rft-missing-reference", "error", "D", "documented", formats=_RFT)
def rft_missing_reference(row: DatasetRecord) -> Iterator[Violation]:
    """The record lacks a key that the grader reads.

    Why: The grader fails on the record. Without a grader, the keys that all of the first records have are expected. At
        Bedrock the grader gets reference_answer.
    Fix: Add the key.
    Source: Azure reinforcement fine-tuning page, 2026-07 ({{item.KEY}}); Bedrock's guide for reinforcement
        of open-weight models, 2026.
    """
    required = {"reference_answer": None} if row.file.target == "bedrock" else {}
    for key in {**required, **dict.fromkeys(row.file.grader_fields)}:
        if key not in row.record:
            yield Violation(key, f"The reference key '{escape_preview(key, 40)}' is missing.")


@rule(
    "FT604",
    "rft-no-validation-file",
    "error",
    "D",
    "documented",
    scope="file",
    formats=_RFT,
    bedrock="off",
    local="off",
)
def rft_no_validation_file(stats: ScanStatistics) -> Iterator[Violation]:
    """A reinforcement job has no validation file.

    Why: Both files are required. This is checked for a job, not for the file alone.
    Fix: Create one: ``ftpipe split FILE``.
    Source: Azure reinforcement fine-tuning page, 2026-07.
    """
    if stats.file.for_job and not stats.file.has_validation and stats.file.role == "train":
        yield Violation("", "There is no validation file.")


@rule("FT606", "rft-answer-in-prompt", "warning", "Q", "inferred", formats=_RFT)
def rft_answer_in_prompt(row: DatasetRecord) -> Iterator[Violation]:
    """A reference text of eight or more characters appears in the prompt.

    Why: The model can copy the answer instead of finding it.
    Fix: Remove it from the prompt.
    Source: practice; short references and numbers are accepted, because tasks often quote them.
    """
    prompt = "\n".join(text.value for text in row.texts)
    for key, value in row.record.items():
        if (
            key in RFT_RESERVED
            or type(value) is not str
            or len(value) < MIN_REFERENCE_CHARACTERS
            or not _WORDS.search(value)
        ):
            continue
        if value in prompt:
            yield Violation(key, "The reference text appears in the prompt.", escape_preview(value, 80))


@rule(
    "FT607",
    "rft-too-many-examples",
    "error",
    "D",
    "documented",
    scope="file",
    formats=_RFT,
    bedrock="off",
    local="off",
)
def rft_too_many_examples(stats: ScanStatistics) -> Iterator[Violation]:
    """A reinforcement file has more than 50,000 training or 1,000 validation examples.

    Why: The service rejects it.
    Fix: Remove examples.
    Source: OpenAI reinforcement guide, 2026-07-15.
    """
    limit = MAX_EXAMPLES[stats.file.role]
    if stats.examples > limit:
        yield Violation("", f"The file has {stats.examples:,} examples; the limit is {limit:,}.")
