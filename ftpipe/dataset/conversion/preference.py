"""Rows that compare answers: chosen and rejected in all their shapes, and single answers marked good or bad."""

from __future__ import annotations

from typing import Any, NamedTuple

from ftpipe.dataset.conversion.conversation import read_messages
from ftpipe.dataset.conversion.legacy_markers import LegacyMarkers
from ftpipe.dataset.conversion.pairs import ANSWER_KEYS, answer_of, join, question_of, read_side, with_system
from ftpipe.dataset.conversion.rendered_text import split_text
from ftpipe.dataset.conversion.row import Fields, Messages, Row, SkipRow
from ftpipe.dataset.conversion.structure import as_messages
from ftpipe.dataset.conversion.tools import read_tools

CHOSEN_KEYS = ("chosen", "chosenresponse", "preferred", "preferredoutput", "preferredcompletion", "accepted")
REJECTED_KEYS = (
    *("rejected", "rejectedresponse", "rejectedmessage", "rejectedmessages", "nonpreferred", "nonpreferredoutput"),
    *("nonpreferredcompletion", "dispreferred"),
)
_REJECTED_BESIDE_GOOD = ("rejectedresponse", "rejectedmessage", "rejectedmessages")
"""Rejected answers beside a whole good conversation."""
MESSAGE_KEYS = (
    *("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat", "contents", "chatmessages"),
)


class Preference(NamedTuple):
    """A prompt with a better and a worse answer."""

    messages: Messages
    preferred: dict[str, Any]
    rejected: dict[str, Any]


def is_preference(fields: Fields) -> bool:
    """True for a row with a better and a worse answer."""
    if fields.filled("contents") and fields.filled("completions"):
        return True
    has_chosen = bool(fields.find(*CHOSEN_KEYS)) or bool(fields.filled(*_REJECTED_BESIDE_GOOD))
    return has_chosen and bool(fields.find(*REJECTED_KEYS))


def read_preference(row: Row) -> Preference:
    """Prompt and both answers of a row.

    Raises:
        SkipRow: One is missing, or the answers differ in more than one message.
    """
    fields = row.fields
    if fields.filled("contents") and fields.filled("completions"):
        return _vertex(row)
    chosen_key, rejected_key = fields.find(*CHOSEN_KEYS), fields.find(*REJECTED_KEYS)
    if row.options.purpose == "chat":
        fields.ignored.add(rejected_key)
    if not chosen_key:
        return _good_conversation(row, rejected_key)
    chosen, rejected = (_answer(row, key, fields.use(key)) for key in (chosen_key, rejected_key))
    prompt = _prompt(row, chosen)
    if prompt is None:
        shared = _shared_length(chosen, rejected)
        if not shared:
            raise SkipRow("prompt", "it is missing, and the two answers have no messages in common")
        prompt = with_system(row, fields, chosen[:shared])
        chosen, rejected = chosen[shared:], rejected[shared:]
    else:
        shared = _shared_length(chosen, rejected)
        if shared and _ends_alike(prompt, chosen[:shared]):
            system = [] if prompt[0]["role"] == "system" else [m for m in chosen[:1] if m["role"] == "system"]
            prompt = [*system, *prompt]
            chosen, rejected = chosen[shared:], rejected[shared:]
    return Preference(prompt, _single(chosen_key, chosen), _single(rejected_key, rejected))


def _good_conversation(row: Row, rejected_key: str) -> Preference:
    """A good conversation beside a rejected answer or conversation, as ms-swift writes it."""
    fields = row.fields
    key = fields.first_filled(*MESSAGE_KEYS)
    if key:
        good = with_system(row, fields, read_messages(row, key, fields.use(key)))
    else:
        good = join(question_of(row), answer_of(row, LegacyMarkers()))
    rejected = read_side(row, rejected_key, fields.use(rejected_key), "assistant")
    if _ends_alike(good[:-1], rejected[:-1]):
        rejected = rejected[-1:]
    return Preference(good[:-1], _single(key, good[-1:]), _single(rejected_key, rejected))


def _answer(row: Row, key: str, value: object) -> Messages:
    if isinstance(value, str) and as_messages(value) is None and not row.fields.filled("prompt", "question"):
        split = split_text(key, value)
        if split is not None:
            return split[1]
    return read_side(row, key, value, "assistant")


def _prompt(row: Row, chosen: Messages) -> Messages | None:
    """The prompt that stands apart from the answers; ``None`` if there is none."""
    fields = row.fields
    source = fields.filled("input")
    if source and isinstance(fields.value[source[0]], dict):
        return _openai_input(row, source[0])
    for key in fields.filled(*MESSAGE_KEYS):
        mark = row.mark()
        messages = read_messages(row, key, fields.value[key])
        if messages == chosen:
            row.forget(mark)  # the chosen conversation once more
            fields.ignored.add(key)
            continue
        if messages[-1]["role"] == "assistant":
            raise SkipRow(key, "it ends with an answer, which the two others would follow")
        fields.use(key)
        return with_system(row, fields, messages)
    return question_of(row) if fields.filled("prompt", "question", "instruction", "query", "input") else None


def _openai_input(row: Row, key: str) -> Messages:
    fields = row.open(row.fields.use(key), key)
    for name in fields.filled("tools", "functions"):
        read_tools(row, fields.path_of(name), fields.use(name))
    if isinstance(parallel := fields.get("paralleltoolcalls"), bool):
        row.parallel_tool_calls = parallel
    return read_messages(row, f"{key}.messages", fields.get("messages"))


def _shared_length(chosen: Messages, rejected: Messages) -> int:
    """How many messages both begin with; the last one of each is never shared."""
    shared = 0
    for one, other in zip(chosen[:-1], rejected[:-1], strict=False):
        if one != other:
            break
        shared += 1
    return shared


def _ends_alike(prompt: Messages, shared: Messages) -> bool:
    """True if the shared messages repeat the prompt, with or without its system message."""
    dialogues = [[m for m in messages if m["role"] != "system"] for messages in (prompt, shared)]
    return dialogues[0] == dialogues[1]


def _single(key: str, messages: Messages) -> dict[str, Any]:
    if len(messages) != 1:
        raise SkipRow(key, f"the answers differ in {len(messages)} messages; one can be compared")
    if messages[0]["role"] != "assistant":
        raise SkipRow(key, f"it is from the {messages[0]['role']}, not from the assistant")
    return {name: value for name, value in messages[0].items() if name != "weight"}


def _vertex(row: Row) -> Preference:
    """A row of Vertex AI's preference tuning: contents, and two completions with scores."""
    fields = row.fields
    key = fields.find("completions")
    completions = fields.use(key)
    if not isinstance(completions, list) or len(completions) != 2 or not all(isinstance(c, dict) for c in completions):
        raise SkipRow(key, "it is not a list of two completions")
    scored: list[tuple[float, dict[str, Any]]] = []
    for index, completion in enumerate(completions):
        inner = row.open(completion, f"{key}[{index}]")
        score = inner.get("score")
        messages = read_side(row, f"{key}[{index}].completion", inner.get("completion"), "assistant")
        scored.append((float(score) if isinstance(score, int | float) else -1.0, _single(key, messages)))
    if scored[0][0] == scored[1][0]:
        raise SkipRow(key, "both completions have the same score")
    better, worse = sorted(scored, key=lambda item: -item[0])
    contents = fields.find("contents")
    prompt = with_system(row, fields, read_messages(row, contents, fields.use(contents)))
    return Preference(prompt, better[1], worse[1])


def has_own_answer(fields: Fields) -> bool:
    """True if the row's answer does not stand in the column that could be a verdict."""
    columns = [name for name in ANSWER_KEYS if name not in ("label", "labeltext")]
    return bool(fields.filled(*columns, *MESSAGE_KEYS))
