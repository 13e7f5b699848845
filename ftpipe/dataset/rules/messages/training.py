"""FT2, what is learnt: empty answers, weights, text of special tokens, chat templates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ftpipe.dataset.chat_template import can_be_rendered
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import ANSWER_TRAITS, NON_PLAIN
from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation, escape_preview
from ftpipe.dataset.rules.messages.turns import dialogue
from ftpipe.dataset.scan.statistics import ScanStatistics

FAMILY = RuleGroup("Messages")
rule = FAMILY.rule
_CHAT = frozenset({"chat"})
_TRAINED = frozenset({"chat", "dpo"})
"""Formats that are trained on this machine."""

SPECIAL_TEXT = re.compile(
    r"<\|(?:endoftext|endofprompt|fim_(?:prefix|middle|suffix|pad)|im_(?:start|end|sep)|start|end|message|channel|return|call|constrain"
    r"|startoftext|reserved_\d{6}|begin_of_text|end_of_text|eot_id|start_header_id|end_header_id|eom_id|python_tag)\|>"
)
"""Special tokens of every tiktoken encoding, and those of widely used chat templates.

Source: tiktoken 0.14 ``openai_public.py``; the service refused ``<|fim_suffix|>`` (llmcomp #59), others are inferred.
"""


def is_trained(message: dict[str, Any]) -> bool:
    """True for an assistant message whose weight is not 0."""
    return message.get("role") == "assistant" and message.get("weight", 1) != 0


def has_call(message: dict[str, Any]) -> bool:
    """True where something other than text answers."""
    return any(message.get(key) for key in ("tool_calls", "function_call", "refusal", "audio"))


@rule(
    "FT208",
    "empty-assistant",
    "error",
    "Q",
    "inferred",
    when=NON_PLAIN,
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "drop the record"),
)
def empty_assistant(row: DatasetRecord) -> Iterator[Violation]:
    """An assistant message has no text but blanks, and calls no tool.

    Why: The model learns to answer with nothing.
    Fix: Write the answer, or drop the record.
    Source: practice.
    """
    for base, index, message in row.messages():
        content = message.get("content")
        if (
            message.get("role") == "assistant"
            and type(content) is str
            and not content.strip()
            and not has_call(message)
        ):
            yield Violation(f"{base}[{index}].content", f"The assistant's answer is '{escape_preview(content, 20)}'.")


@rule("FT216", "nothing-trained", "error", "Q", "inferred", when=NON_PLAIN, formats=_CHAT)
def nothing_trained(row: DatasetRecord) -> Iterator[Violation]:
    """Every assistant message has weight 0.

    Why: The record costs tokens and teaches nothing.
    Fix: Give the answer that counts the weight 1, or drop the record.
    Source: OpenAI API description: weight 0 is not trained, 2026-08-21.
    """
    base, messages = dialogue(row)
    answers = [m for m in messages if type(m) is dict and m.get("role") == "assistant"]
    if answers and not any(is_trained(m) for m in answers):
        yield Violation(base, f"All {len(answers)} assistant message(s) have weight 0.")


@rule("FT218", "special-token-text", "error", "R", "observed", formats=MESSAGE_FORMATS, mark="special")
def special_token_text(row: DatasetRecord) -> Iterator[Violation]:
    """A text spells a special token, such as ``<|endoftext|>``.

    Why: A file with <|fim_suffix|> was refused; elsewhere the text may end a document or fake a turn.
    Fix: Remove it, or write it in another way (for example with a space after <).
    Source: llmcomp #59 for <|fim_suffix|>; the union of tiktoken's encodings otherwise.
    """
    for text in row.texts:
        found = SPECIAL_TEXT.search(text.value)
        if found:
            yield Violation(
                text.path,
                f"The text holds the special token {found.group()}.",
                escape_preview(text.value[max(0, found.start() - 30) : found.end() + 30], 120),
            )


@rule("FT218", "special-token-text", "off", "R", "inferred", formats=MESSAGE_FORMATS, local="error")
def special_token_of_base(row: DatasetRecord) -> Iterator[Violation]:
    """A text spells a special token of the base that is trained on this machine.

    Why: The tokenizer reads it as the token itself, which ends a turn or fakes one.
    Fix: Remove it, or write it in another way (for example with a space after <).
    Source: the tokenizer files in the base's folder; without the folder only the common tokens are known.
    """
    template = row.file.chat_template
    if template is None or not template.special:
        return
    for text in row.texts:
        found = template.find_special_token(text.value)
        if found and not SPECIAL_TEXT.fullmatch(found):
            yield Violation(text.path, f"The text holds the base's special token {escape_preview(found)}.")


@rule("FT220", "template-fails", "off", "L", "observed", formats=_TRAINED, local="error")
def template_fails(row: DatasetRecord) -> Iterator[Violation]:
    """The base's chat template refuses the record.

    Why: The trainer renders every record with it; one that fails stops the job.
    Fix: Change what it refuses (an odd order of roles, parts that are no text), or choose another base.
    Source: rendered with the template in the base's folder, once for records of one shape; without the folder,
        which the first training makes, nothing is said.
    """
    template = row.file.chat_template
    if template is None:
        return
    base, messages = dialogue(row)
    is_plain = not row.traits & ~ANSWER_TRAITS
    if not is_plain and not can_be_rendered(messages):
        return
    problem = template.refusal(messages, row.tools if type(row.tools) is list else None, plain=is_plain)
    if problem:
        yield Violation(base, f"The base's chat template refuses the record: {escape_preview(problem, 160)}")


@rule("FT222", "end-of-turn-untrained", "off", "L", "observed", scope="file", formats=_TRAINED, local="error")
def end_of_turn_untrained(stats: ScanStatistics) -> Iterator[Violation]:
    """The base's chat template does not close the assistant's turn with a special token, or there is no template.

    Why: The end of an answer is then never learnt, and the tuned model would not stop.
    Fix: Choose an instruct base, whose chat template closes the assistant's turn.
    Source: marin #7237, trl #3751; read from the base's folder, and nothing is said where it is not on this machine.
    """
    template = stats.file.chat_template
    if template is not None and template.fault:
        yield Violation("", template.fault)
