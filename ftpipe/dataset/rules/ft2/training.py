"""FT2, what is learnt: empty answers, weights, text of special tokens, chat templates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ftpipe.dataset.rows import Row
from ftpipe.dataset.rules.ft2.turns import dialogue
from ftpipe.dataset.rules.rule import MESSAGE_FORMATS, ODD, Family, Hit, show

FAMILY = Family("Messages")
rule = FAMILY.rule
_CHAT = frozenset({"chat"})

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
    when=ODD,
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "drop the record"),
)
def empty_assistant(row: Row) -> Iterator[Hit]:
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
            yield Hit(f"{base}[{index}].content", f"The assistant's answer is '{show(content, 20)}'.")


@rule("FT216", "nothing-trained", "error", "Q", "inferred", when=ODD, formats=_CHAT)
def nothing_trained(row: Row) -> Iterator[Hit]:
    """Every assistant message has weight 0.

    Why: The record costs tokens and teaches nothing.
    Fix: Give the answer that counts the weight 1, or drop the record.
    Source: OpenAI API description: weight 0 is not trained, 2026-08-21.
    """
    base, messages = dialogue(row)
    answers = [m for m in messages if type(m) is dict and m.get("role") == "assistant"]
    if answers and not any(is_trained(m) for m in answers):
        yield Hit(base, f"All {len(answers)} assistant message(s) have weight 0.")


@rule("FT218", "special-token-text", "error", "R", "observed", formats=MESSAGE_FORMATS, mark="special")
def special_token_text(row: Row) -> Iterator[Hit]:
    """A text spells a special token, such as ``<|endoftext|>``.

    Why: A file with <|fim_suffix|> was refused; elsewhere the text may end a document or fake a turn.
    Fix: Remove it, or write it in another way (for example with a space after <).
    Source: llmcomp #59 for <|fim_suffix|>; the union of tiktoken's encodings otherwise.
    """
    for text in row.texts:
        found = SPECIAL_TEXT.search(text.value)
        if found:
            yield Hit(
                text.path,
                f"The text holds the special token {found.group()}.",
                show(text.value[max(0, found.start() - 30) : found.end() + 30], 120),
            )


@rule("FT220", "template-fails", "off", "L", "inferred", when=ODD, formats=_CHAT, local="error")
def template_fails(row: Row) -> Iterator[Hit]:
    """The base model's chat template cannot render the record.

    Why: The trainer renders every record with it; one that fails stops the job.
    Fix: Give every message a text, or choose a base whose template knows tools.
    Source: rendered with the template of the model folder; without one only what no template takes is reported.
    """
    render = row.facts.sampled.get("render")
    if render is None:
        return
    problem = render(row.record)
    if problem:
        yield Hit("messages", f"The chat template fails: {show(problem, 120)}")


@rule("FT222", "end-of-turn-untrained", "off", "L", "inferred", formats=_CHAT, local="error")
def end_of_turn_untrained(row: Row) -> Iterator[Hit]:
    """After rendering, no trained answer is followed by the template's end-of-turn token.

    Why: The tuned model would never learn to stop.
    Fix: Choose a base whose chat template closes the assistant's turn, or give the folder such a template.
    Source: marin #7237, trl #3751.
    """
    closes = row.facts.sampled.get("closes_turns")
    if closes is False and row.line.number == 1:
        yield Hit("", "The model's chat template does not close the assistant's turn.")
