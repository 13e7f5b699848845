"""Recognises the format of a row, and reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftpipe.dataset.conversion.conversation import read_messages
from ftpipe.dataset.conversion.exports import (
    is_exchange,
    is_label_studio,
    read_exchange,
    read_label_studio,
    refuse_unreadable,
    unwrap,
)
from ftpipe.dataset.conversion.legacy_markers import LegacyMarkers
from ftpipe.dataset.conversion.pairs import ANSWER_KEYS, answer_of, join, read_pair, with_system
from ftpipe.dataset.conversion.preference import (
    MESSAGE_KEYS,
    has_own_answer,
    is_preference,
    read_preference,
)
from ftpipe.dataset.conversion.rendered_text import split_text
from ftpipe.dataset.conversion.row import SYSTEM_KEYS, Fields, Messages, Row, SkipRow, normalize_key
from ftpipe.dataset.conversion.structure import as_messages
from ftpipe.dataset.conversion.tools import read_tools
from ftpipe.dataset.conversion.verdicts import VERDICT_KEYS, verdict_of, weight_of
from ftpipe.dataset.formats import CHAT_KEYS, fits_only_reinforcement


@dataclass
class Example:
    """A row in the terms of the result."""

    format: str
    messages: Messages
    """The conversation; of a preference pair the prompt."""
    preferred: dict[str, Any] | None = None
    rejected: dict[str, Any] | None = None
    is_good: bool | None = None
    """Whether the last answer is marked as good or bad; ``None`` if it is not marked."""


def read_example(row: Row, markers: LegacyMarkers) -> Example:
    """Read a row in whichever format it is.

    Raises:
        SkipRow: It cannot become an example.
        UnmappedKey: A key that changes what is learnt has no place in the result.
    """
    refuse_unreadable(row.fields.value)
    unwrap(row)
    fields = row.fields
    _read_row_tools(row)
    if row.options.columns is None and is_preference(fields):
        pair = read_preference(row)
        return Example(_preference_name(fields), pair.messages, pair.preferred, pair.rejected)
    name, messages = _conversation(row, markers)
    columns = {normalize_key(column) for column in row.options.columns or ()}
    is_marked = has_own_answer(fields) if not columns else not columns & set(VERDICT_KEYS)
    is_good = verdict_of(row, fields) if is_marked else None
    if name != "chat":
        for role in ("user", "assistant"):
            if not any(message["role"] == role for message in messages):
                raise SkipRow(fields.find(*MESSAGE_KEYS), f"it has no turn of the {role}")
    _check_row_weight(fields)
    return Example("KTO" if is_good is not None else name, messages, is_good=is_good)


def _preference_name(fields: Fields) -> str:
    if fields.filled("completions"):
        return "Vertex AI preference"
    return "DPO" if fields.find("preferredoutput", "preferredcompletion") else "chosen/rejected"


def _conversation(row: Row, markers: LegacyMarkers) -> tuple[str, Messages]:
    """Name of the format and messages of a row that is not a preference pair."""
    fields = row.fields
    if row.options.columns:
        return "table", read_pair(row, markers)
    if is_label_studio(fields):
        return "Label Studio", read_label_studio(row)
    if is_exchange(fields):
        return read_exchange(row)
    for key in fields.filled(*MESSAGE_KEYS) or fields.filled("messages"):
        if key == "messages" or as_messages(fields.value[key]) is not None or not _has_pair(fields):
            return _message_list(row, key)
    if (key := fields.find(*MESSAGE_KEYS)) and not _has_pair(fields):
        raise SkipRow(key, "it has no turn of the user" if fields.value[key] == [] else "it is not a list of messages")
    if not fields.find(*ANSWER_KEYS):
        lists = [key for key, value in fields.value.items() if as_messages(value) is not None]
        if len(lists) > 1:
            raise SkipRow("", f"it has several lists of messages: {', '.join(lists[:4])}")
        if lists:
            return _message_list(row, lists[0])
    return _pair_name(row), read_pair(row, markers)


def _has_pair(fields: Fields) -> bool:
    return bool(fields.find("prompt", "question", "instruction", "input"))


def _message_list(row: Row, key: str) -> tuple[str, Messages]:
    """A list of messages with what stands beside it."""
    fields, value = row.fields, row.fields.value[key]
    if key == "messages" and fits_only_reinforcement(fields.value) and "role" in value[-1] and _reference_keys(fields):
        names = ", ".join(_reference_keys(fields)[:4])
        raise SkipRow(
            key,
            f"it ends with the user, beside {names}: reinforcement data, which `ftpipe prepare` reads as it is"
            f" (--columns {key},ANSWER makes chat of it)",
        )
    if isinstance(value, str) and as_messages(value) is None and (split := split_text(key, value)):
        fields.use(key)
        return split[0], with_system(row, fields, split[1])
    turns = as_messages(value) or []
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    name = "ShareGPT" if "from" in first else "Vertex AI" if key == "contents" else "chat"
    if name == "chat":
        name = "Bedrock" if fields.get("schemaversion") else "Anthropic" if fields.filled(*SYSTEM_KEYS) else name
    if name == "chat" and key != "messages":
        name = f"messages in {key}"
    messages = with_system(row, fields, read_messages(row, key, fields.use(key)))
    if key != "messages" and messages[-1]["role"] != "assistant" and fields.filled(*ANSWER_KEYS):
        messages = join(messages, answer_of(row, LegacyMarkers()))
    _use_speaker_mask(fields)
    return name, messages


def _reference_keys(fields: Fields) -> list[str]:
    return [key for key in fields.value if key not in CHAT_KEYS and fields.is_filled(fields.value[key])]


def _use_speaker_mask(fields: Fields) -> None:
    """NeMo's mask names the speaker that is not trained: that of the user says what holds anyway."""
    key = fields.find("mask")
    if key and str(fields.value[key]).lower() in ("user", "human"):
        fields.use(key)


def _read_row_tools(row: Row) -> None:
    fields = row.fields
    for key in fields.filled("tools", "functions", "toolconfig"):
        value = fields.use(key)
        if isinstance(value, dict) and isinstance(value.get("tools"), list):
            value = row.open(value, key).use("tools")
        read_tools(row, key, value)
    if row.tools is None and fields.value.get("tools") == []:
        row.tools = []
    parallel = fields.get("paralleltoolcalls")
    if isinstance(parallel, bool):
        row.parallel_tool_calls = parallel


def _check_row_weight(fields: Fields) -> None:
    """A weight beside the conversation: 1 says nothing, and 0 leaves the row out.

    Raises:
        SkipRow: It is 0.
    """
    for key in fields.filled("weight", "sampleweight", "lossweight", "train", "trainable"):
        weight = weight_of(key, fields.value[key])
        if weight is not None:
            fields.use(key)
        if weight == 0:
            raise SkipRow(key, "it is 0: the row is not to be learnt")


def _pair_name(row: Row) -> str:
    fields = row.fields
    if "prompt" in fields.value and "completion" in fields.value:
        return "prompt/completion"
    if fields.find("instruction") and fields.find("output", "response"):
        return "Dolly" if fields.filled("context") else "Alpaca"
    if fields.find("message") and fields.find("chathistory"):
        return "Cohere"
    if not row.is_table and fields.find("input") and fields.find("output", "expectedoutput"):
        return "input/output"
    if fields.find("ideal") and fields.find("input"):
        return "evals"
    return "table"
