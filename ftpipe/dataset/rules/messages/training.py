"""FT2: what is trained: empty answers, weights, special tokens in texts, chat templates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from ftpipe.catalog.host_bases import find_host_base
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import ANSWER_TRAITS, NON_PLAIN
from ftpipe.dataset.rules.base import MESSAGE_FORMATS, RuleGroup, Violation, escape_preview
from ftpipe.dataset.rules.messages.fields import ROLE_SYNONYMS, ROLES
from ftpipe.dataset.rules.messages.turns import dialogue
from ftpipe.dataset.scan.statistics import ScanStatistics
from ftpipe.dataset.training_check import can_be_rendered
from ftpipe.formatting import plural
from ftpipe.modeling.chat_messages import is_trained

GROUP = RuleGroup("Messages")
rule = GROUP.rule
_CHAT = frozenset({"chat"})
_TRAINED_LOCALLY = frozenset({"chat", "dpo"})
"""Formats that local training supports."""

SPECIAL_TEXT = re.compile(
    r"<\|(?:endoftext|endofprompt|fim_(?:prefix|middle|suffix|pad)|im_(?:start|end|sep)|start|end|message|channel|return|call|constrain"
    r"|startoftext|reserved_\d{6}|begin_of_text|end_of_text|eot_id|start_header_id|end_header_id|eom_id|python_tag)\|>"
)
"""Special tokens of every tiktoken encoding, and those of widely used chat templates.

Source: tiktoken 0.14 ``openai_public.py``; the service rejected
``<|fim_suffix|>`` (llmcomp #59), the others are inferred.
"""


_MESSAGE_HEAD = re.compile(r"""\s*\[?\s*\{\s*['"](?:role|from|content|value)['"]\s*:\s*['"]""")
_MESSAGE_KEYS = (("role", "content"), ("from", "value"))
_SPEAKERS = (*ROLES, *ROLE_SYNONYMS)
_PYTHON_KEYS = re.compile(rf"""[{{,]\s*'(?:role|from)'\s*:\s*['"](?:{"|".join(_SPEAKERS)})['"]\s*[,}}]""")


def count_messages_in_text(text: str) -> int:
    """Number of messages that a whole text consists of, as JSON or as Python writes a list; 0 for ordinary text."""
    if not _MESSAGE_HEAD.match(text) or text.rstrip()[-1:] not in ("]", "}"):
        return 0
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return len(_PYTHON_KEYS.findall(text))
    items = value if isinstance(value, list) else [value]
    return len(items) if all(map(_is_message, items)) else 0


def _is_message(value: Json) -> bool:
    return isinstance(value, dict) and any(value.get(who) in _SPEAKERS and what in value for who, what in _MESSAGE_KEYS)


def has_call(message: dict[str, Any]) -> bool:
    """True if the message answers with something other than text."""
    return any(message.get(key) for key in ("tool_calls", "function_call", "refusal", "audio"))


@rule(
    "FT208",
    "empty-assistant-message",
    "error",
    "Q",
    "inferred",
    when=NON_PLAIN,
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "remove the record"),
)
def empty_assistant_message(row: DatasetRecord) -> Iterator[Violation]:
    """An assistant message has neither text nor a tool call.

    Why: The model learns to answer with nothing.
    Fix: Write the answer, or remove the record.
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
            yield Violation(
                f"{base}[{index}].content", f"The assistant message is empty: '{escape_preview(content, 20)}'."
            )


@rule("FT223", "messages-in-text", "error", "Q", "inferred", formats=MESSAGE_FORMATS, mark="messages")
def messages_in_text(row: DatasetRecord) -> Iterator[Violation]:
    """The text of a user or an assistant message is a list of messages, written as JSON or by Python.

    Why: The model would read or learn to write the JSON instead of the conversation. The usual cause is a column that
        holds messages and was converted to text.
    Fix: Put the inner messages into the list, or export the data again without turning lists into text.
    Source: exports of TRL, Langfuse, Argilla and pandas, seen 2026-11.
    """
    for text in row.texts:
        if text.role in ("user", "assistant") and (number := count_messages_in_text(text.value)):
            message = f"The {text.role} message is a text that holds {plural(number, 'message')}."
            yield Violation(text.path, message, escape_preview(text.value, 100))


@rule("FT216", "no-trained-message", "error", "Q", "inferred", when=NON_PLAIN, formats=_CHAT)
def no_trained_message(row: DatasetRecord) -> Iterator[Violation]:
    """Every assistant message has weight 0.

    Why: The record costs tokens but trains nothing.
    Fix: Set the weight of the answer that matters to 1, or remove the record.
    Source: OpenAI API description: messages with weight 0 are not trained, 2026-08-21.
    """
    base, messages = dialogue(row)
    answers = [m for m in messages if type(m) is dict and m.get("role") == "assistant"]
    if answers and not any(is_trained(m) for m in answers):
        message = "The assistant message has" if len(answers) == 1 else f"All {len(answers)} assistant messages have"
        yield Violation(base, f"{message} weight 0.")


@rule(
    "FT218",
    "special-token-in-text",
    "error",
    "R",
    "observed",
    formats=MESSAGE_FORMATS,
    mark="special",
    nebius="warning",
    together="warning",
    fireworks="warning",
    bedrock="warning",
    local="off",
)
def special_token_in_text(row: DatasetRecord) -> Iterator[Violation]:
    """A text contains a special token, such as ``<|endoftext|>``.

    Why: OpenAI rejected a file with <|fim_suffix|>. Where such a text is accepted, it can end a document or imitate a
        turn. Local training reads it as ordinary text.
    Fix: Remove it, or write it differently, for example with a space after <.
    Source: llmcomp #59 for <|fim_suffix|>; otherwise the special tokens of all tiktoken encodings.
    """
    for text in row.texts:
        match = SPECIAL_TEXT.search(text.value)
        if match:
            yield Violation(
                text.path,
                f"The text contains the special token {match.group()}.",
                escape_preview(text.value[max(0, match.start() - 30) : match.end() + 30], 120),
            )


@rule("FT224", "earlier-answers-not-trained", "off", "S", "documented", formats=_CHAT, together="info")
def earlier_answers_not_trained(row: DatasetRecord) -> Iterator[Violation]:
    """The conversation has several answers, and the base model is a reasoning model of Together.

    Why: Of a reasoning model only the last answer of a conversation is trained there; the others are only read.
    Fix: Make one example of each answer that the model must learn, or choose another base model.
    Source: Together's data preparation page, 2026-08.
    """
    base = find_host_base(row.file.model, row.file.target) if row.file.model else None
    if base is None or not base.reasoning:
        return
    path, messages = dialogue(row)
    answers = [m for m in messages if type(m) is dict and m.get("role") == "assistant" and is_trained(m)]
    if len(answers) > 1:
        yield Violation(path, f"Of {len(answers)} answers only the last one is trained.")


@rule("FT220", "chat-template-fails", "off", "L", "observed", formats=_TRAINED_LOCALLY, local="error")
def chat_template_fails(row: DatasetRecord) -> Iterator[Violation]:
    """The record cannot be rendered for training with the base model's chat template.

    Why: The trainer renders every record with the template; an error stops the job.
    Fix: Change what the template rejects (an unusual order of roles, parts that are not text), or choose another
        base model.
    Source: rendered as in training, with the template in the base model's folder, once per shape of record. The first
        training creates the folder; until then this rule does not run.
    """
    check = row.file.training_check
    is_plain = not row.traits & ~ANSWER_TRAITS
    if check is None or (not is_plain and not can_be_rendered(row.record)):
        return
    problem = check.row_error(row.record, plain=is_plain)
    if problem:
        yield Violation(dialogue(row)[0], f"The record cannot be trained: {escape_preview(problem, 160)}")


@rule("FT222", "end-of-turn-not-trained", "off", "L", "observed", scope="file", formats=_TRAINED_LOCALLY, local="error")
def end_of_turn_not_trained(stats: ScanStatistics) -> Iterator[Violation]:
    """The base model has no chat template, or its template ends a turn without a special token.

    Why: The model never learns where an answer ends, so the tuned model does not stop.
    Fix: Choose an instruct model whose chat template ends the assistant's turn.
    Source: marin #7237, trl #3751; read from the base model's folder. If it is not on this machine, this rule does
        not run.
    """
    check = stats.file.training_check
    if check is not None and check.template_error:
        yield Violation("", check.template_error)
