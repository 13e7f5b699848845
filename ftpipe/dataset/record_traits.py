"""What decides cheaply which rules must read a record: traits of the record, and marks of its line.

A *trait* is a bit that is set while a record is parsed; a rule names the traits without which it cannot fire. A *mark*
is a word that a byte search over many lines gives to a line; it never decides anything, it only says that the exact
rule has to look.
"""

from __future__ import annotations

from collections.abc import Collection

from ftpipe.dataset.json_line import Json

ALWAYS = 0
"""For rules that run on every record."""
NON_PLAIN = 1
"""Something beyond messages of plain ``role`` and non-empty text ``content``, or an unusual order of roles."""
TOOLS = 2
"""Tool definitions, calls or results."""
IMAGES = 4
"""Image parts."""
SURROUNDING_WHITESPACE = 8
"""An answer that begins or ends with whitespace."""
LOOKS_TRUNCATED = 16
"""An answer whose end is unusual."""
REPETITIVE = 32
"""An answer that contains its own end many times."""
POSSIBLE_REFUSAL = 64
"""An answer that may refuse, or name a vendor."""
HAS_REASONING = 128
"""An answer with a reasoning block."""
ANSWER_TRAITS = SURROUNDING_WHITESPACE | LOOKS_TRUNCATED | REPETITIVE | POSSIBLE_REFUSAL | HAS_REASONING
"""Traits of an answer's text; they do not depend on the record's shape."""

ALL_MARKS = "*"
"""Stands for every mark, on lines whose escapes may hide what a search looks for."""
DISPUTED_CHARACTERS = "disputed"
"""Mark of lines with characters that tokenizers disagree on (``tokenization.patterns.DISPUTED``)."""
CODE_FENCE, REASONING_BLOCK, REFUSAL_WORDING, UNUSUAL_KEYS = "fence", "think", "voice", "keys"
AUXILIARY_MARKS = frozenset({CODE_FENCE, REASONING_BLOCK, REFUSAL_WORDING, UNUSUAL_KEYS})
"""Marks that no rule names: a code fence, a reasoning block, words in which models refuse or name themselves, and
what keeps keys from being counted by ``":`` alone."""
REFUSAL_WORDS = (
    "sorry", "t help", "t assist", "t comply", "t fulfill", "t provide", "unable to", "language model",
    "as an ai", "as a ai", "as an artificial", "as a artificial", "as a large", "as an large",
)  # fmt: skip
"""Every answer that FT805 reports contains one of these, in lower case."""
VENDOR_WORDS = (
    "m ChatGPT", "m GPT-", "m Claude", "m Gemini", "m Bard", "m Copilot", "by OpenAI", "by Anthropic", "by Google",
)  # fmt: skip
"""Every answer that FT816 reports contains one of these."""
DANGLING_WORDS = ("and", "or", "the", "a", "an", "of", "to", "with", "because", "that", "for", "in", "is")
"""Words at which no sentence ends."""


def plain_dialogue_traits(record: Json, marks: Collection[str] = AUXILIARY_MARKS) -> int | None:
    """The traits of a dialogue of plain messages in the usual order; ``None`` for any other record.

    Args:
        record: Any value.
        marks: Auxiliary marks of its line.
    """
    if type(record) is not dict or len(record) != 1:
        return None
    messages = record.get("messages")
    if type(messages) is not list:
        return None
    traits, previous = 0, ""
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return None
        role, content = message.get("role"), message.get("content")
        if type(content) is not str or not content or content.isspace():
            return None
        if role == "assistant" and previous == "user":
            traits |= answer_traits(content, marks)
        elif not (role == "user" and previous != "user") and not (role == "system" and not previous):
            return None
        previous = role
    return traits if previous == "assistant" else None


def answer_traits(answer: str, marks: Collection[str] = AUXILIARY_MARKS) -> int:
    """The traits of an answer; cheap, because every answer is looked at.

    Args:
        answer: Not empty.
        marks: Auxiliary marks of its line.
    """
    traits = 0
    first, last = answer[0], answer[-1]
    if first <= " " or last <= " " or first.isspace() or last.isspace():
        traits |= SURROUNDING_WHITESPACE | LOOKS_TRUNCATED
    elif last in ",;" or first in "[{" or (CODE_FENCE in marks and answer.count("```") % 2):
        traits |= LOOKS_TRUNCATED
    else:
        tail = answer[-200:].lower()
        if tail.endswith(DANGLING_WORDS) or "truncated" in tail or "finish_reason" in tail:
            traits |= LOOKS_TRUNCATED
    if len(answer) > 400 and answer.count(answer[-40:]) > 4:
        traits |= REPETITIVE
    if REFUSAL_WORDING in marks and _may_refuse(answer):
        traits |= POSSIBLE_REFUSAL
    if REASONING_BLOCK in marks and "<think" in answer:
        traits |= HAS_REASONING
    return traits


def _may_refuse(answer: str) -> bool:
    head, lowered = answer[:400], answer[:200].lower()
    return any(word in lowered for word in REFUSAL_WORDS) or any(word in head for word in VENDOR_WORDS)
