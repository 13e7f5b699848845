"""FT5: preference pairs (DPO)."""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.dataset.formats import DPO_ALIASES, DPO_KEYS
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import IMAGES
from ftpipe.dataset.rules.base import RuleGroup, Violation, describe_text, describe_value, escape_preview
from ftpipe.dataset.scan.statistics import ScanStatistics

GROUP = RuleGroup("Preference pairs")
rule = GROUP.rule
_DPO = frozenset({"dpo"})
NEAR_IDENTICAL = 0.97
MIN_PAIRS, LONGER_SHARE = 20, 0.75


def output_texts(row: DatasetRecord) -> tuple[str, str] | None:
    """The texts of the preferred and the other output; ``None`` if one of them has no text."""
    texts = [output_text(row.record.get(key)) for key in DPO_KEYS[1:]]
    return (texts[0], texts[1]) if texts[0] is not None and texts[1] is not None else None


def output_text(output: Json) -> str | None:
    """The text of an output list; ``None`` if it has none."""
    message = output[0] if type(output) is list and output else None
    content = message.get("content") if type(message) is dict else None
    return content if type(content) is str else None


@rule("FT501", "dpo-missing-key", "error", "R", "observed", formats=frozenset({"dpo", "unknown"}))
def dpo_missing_key(row: DatasetRecord) -> Iterator[Violation]:
    """A preference record lacks ``input``, ``preferred_output`` or ``non_preferred_output``.

    Why: The service reports that the key is missing from the example.
    Fix: Write {"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}.
    Source: OpenAI file status messages; DPO guide, 2026-07-15.
    """
    if row.file.format != "dpo":
        return
    renamed = {new: old for old, new in DPO_ALIASES.items() if old in row.record}
    for key in DPO_KEYS:
        if key not in row.record:
            hint = f"Rename {renamed[key]} to {key}." if key in renamed else ""
            yield Violation(key, f"The key '{key}' is missing.", hint=hint)
    source = row.record.get("input")
    if "input" in row.record and (type(source) is not dict or "messages" not in source):
        yield Violation("input.messages", f"input is {describe_value(source)}; it has no messages.")


@rule("FT502", "dpo-output-shape", "error", "D", "documented", formats=_DPO)
def dpo_output_shape(row: DatasetRecord) -> Iterator[Violation]:
    """An output is not exactly one assistant message.

    Why: Only one turn is compared; the service rejects other shapes.
    Fix: Put the rest of the conversation into input, and one assistant message into each output.
    Source: OpenAI DPO guide, 2026-07-15.
    """
    for key in DPO_KEYS[1:]:
        if key not in row.record:
            continue
        output = row.record[key]
        if type(output) is not list or len(output) != 1:
            shape = f"a list of {len(output)} messages" if type(output) is list else describe_value(output)
            yield Violation(key, f"{key} is {shape}, not a list of one message.")
        elif type(output[0]) is dict and output[0].get("role", "assistant") != "assistant":
            yield Violation(f"{key}[0].role", f"The role is {describe_text(output[0]['role'])}, not 'assistant'.")


@rule("FT503", "dpo-identical-pair", "error", "Q", "inferred", formats=_DPO, fix=("unsafe", "remove the record"))
def dpo_identical_pair(row: DatasetRecord) -> Iterator[Violation]:
    """Both outputs have the same text.

    Why: There is no preference to learn.
    Fix: Remove the record, or change the output that is not preferred.
    Source: practice.
    """
    pair = output_texts(row)
    if pair and pair[0].strip() == pair[1].strip():
        yield Violation(
            "non_preferred_output[0].content", "Both outputs have the same text.", escape_preview(pair[0], 100)
        )


@rule("FT504", "dpo-near-identical-pair", "warning", "Q", "inferred", formats=_DPO)
def dpo_near_identical_pair(row: DatasetRecord) -> Iterator[Violation]:
    """The two outputs are more than 97 % similar.

    Why: The model hardly learns the difference, or learns only length or spelling.
    Fix: Make the difference that you want to teach clear.
    Source: practice.
    """
    pair = output_texts(row)
    if not pair or pair[0].strip() == pair[1].strip():
        return
    shorter, longer = sorted(map(len, pair))
    if shorter > 40 and longer < 20_000 and shorter / longer > 2 * NEAR_IDENTICAL - 1:
        from rapidfuzz.distance import Indel

        alike = Indel.normalized_similarity(*pair, score_cutoff=NEAR_IDENTICAL)
        if alike > NEAR_IDENTICAL:
            yield Violation("non_preferred_output[0].content", f"The outputs are {alike:.1%} similar.")


@rule("FT505", "dpo-length-bias", "warning", "Q", "inferred", scope="file", formats=_DPO)
def dpo_length_bias(stats: ScanStatistics) -> Iterator[Violation]:
    """The preferred answer is the longer one in more than 75 % of the pairs.

    Why: The model can learn length instead of quality.
    Fix: Add pairs in which the better answer is the shorter one.
    Source: practice.
    """
    longer, pairs = stats.content.preferred_longer, stats.content.preference_pairs
    if pairs >= MIN_PAIRS and longer / pairs > LONGER_SHARE:
        yield Violation("", f"The preferred answer is longer in {longer / pairs:.0%} of {pairs:,} pairs.")


@rule("FT506", "dpo-contradiction", "error", "Q", "inferred", scope="file", formats=_DPO)
def dpo_contradiction(stats: ScanStatistics) -> Iterator[Violation]:
    """Two records have the same prompt, and each prefers the answer that the other rejects.

    Why: They cancel each other out.
    Fix: Keep one of them.
    Source: practice.
    """
    for line, other, weight in stats.swapped.with_weights():
        yield Violation("", f"The pair is the reverse of the pair at line {other}.", line=line, weight=weight)


@rule("FT507", "dpo-image", "error", "D", "documented", when=IMAGES, formats=_DPO)
def dpo_image(_row: DatasetRecord) -> Iterator[Violation]:
    """A preference record contains an image.

    Why: DPO supports text only.
    Fix: Remove the record.
    Source: OpenAI DPO guide, 2026-07-15.
    """
    yield Violation("input.messages", "The record contains an image.")


@rule("FT508", "dpo-prompt-ends-with-assistant", "warning", "D", "documented", formats=_DPO)
def dpo_prompt_ends_with_assistant(row: DatasetRecord) -> Iterator[Violation]:
    """The input ends with an assistant message.

    Why: The outputs are the next turn, so the input should end with a user or tool message.
    Fix: End the input with the user's message.
    Source: OpenAI DPO guide, 2026-07-15.
    """
    for base, messages in row.lists:
        if base == "input.messages" and type(messages) is list and messages:
            last = messages[-1]
            if type(last) is dict and last.get("role") == "assistant":
                yield Violation(f"{base}[{len(messages) - 1}].role", "The input ends with an assistant message.")


@rule("FT509", "dpo-several-turns", "off", "D", "documented", formats=_DPO, fireworks="error")
def dpo_several_turns(row: DatasetRecord) -> Iterator[Violation]:
    """The input of a pair is more than one question.

    Why: Fireworks compares answers to one user message.
    Fix: Keep the last user message, or train the pairs elsewhere.
    Source: Fireworks' guide for direct preference optimization, 2026-08.
    """
    for base, messages in row.lists:
        if base == "input.messages" and type(messages) is list:
            turns = [m for m in messages if type(m) is dict and m.get("role") not in ("system", "developer")]
            if len(turns) > 1:
                yield Violation(base, f"The input has {len(turns)} messages besides the system message.")
