"""FT2: the fields of one message: keys, role, content, name, weight."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ftpipe.dataset.conversion.verdicts import is_left_out
from ftpipe.dataset.formats import FORMAT_OF
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import NON_PLAIN
from ftpipe.dataset.rules.base import (
    MESSAGE_FORMATS,
    RuleGroup,
    Violation,
    describe_text,
    describe_value,
    escape_preview,
    key_path,
    speaker,
)
from ftpipe.suggestions import did_you_mean, did_you_mean_or_remove

GROUP = RuleGroup("Messages")
rule = GROUP.rule

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""``developer`` has a separate rule. Source: OpenAI API description of 2025-05-20."""
NO_LEGACY_ROLES = frozenset({"together", "fireworks"})
"""Targets without the role ``function``. Source: data preparation pages of Together and Fireworks, 2026-08."""
ROLE_SYNONYMS = {
    "human": "user",
    "bot": "assistant",
    "gpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "observation": "tool",
}
"""Roles of other formats → role of the API."""
MESSAGE_KEYS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "weight", "refusal", "audio"}
)
REASONING_KEYS = frozenset({"reasoning", "reasoning_content"})
"""Keys of an assistant message that Together trains on, for reasoning bases. Source: data preparation page, 2026-08."""
_REASONING_HINT = "It holds reasoning, which would not be trained: remove it, or make it part of the content."
KEY_HINTS = {
    "train": "Write weight 0 instead of train false, and leave the key out otherwise.",
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking"), _REASONING_HINT),
}
"""Hints for keys of other formats that change what is trained."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@rule(
    "FT201", "missing-messages", "error", "R", "observed", when=NON_PLAIN, formats=frozenset({"chat", "rft", "unknown"})
)
def missing_messages(row: DatasetRecord) -> Iterator[Violation]:
    """The record has no ``messages``.

    Why: The service reports that the key is missing from the example.
    Fix: Put the conversation into "messages": [{"role": …, "content": …}, …].
    Source: OpenAI file status texts; cookbook data preparation.
    """
    if "messages" not in row.record and row.file.format != "dpo":
        keys = ", ".join(escape_preview(key, 30) for key in list(row.record)[:6]) or "none"
        yield Violation("messages", f"The key 'messages' is missing; the record has: {keys}.")


@rule("FT202", "messages-empty", "error", "R", "documented", when=NON_PLAIN, formats=MESSAGE_FORMATS)
def messages_empty(row: DatasetRecord) -> Iterator[Violation]:
    """``messages`` is empty or not a list.

    Why: There is no conversation to learn from.
    Fix: Add at least a user message and an assistant message.
    Source: OpenAI API description of 2025-05-20; cookbook data preparation.
    """
    for base, messages in row.lists:
        if base.endswith("messages"):
            if type(messages) is not list:
                yield Violation(base, f"{base} is {describe_value(messages)}, not a list.")
            elif not messages:
                yield Violation(base, f"{base} is an empty list.")


@rule("FT203", "message-not-object", "error", "R", "documented", when=NON_PLAIN, formats=MESSAGE_FORMATS)
def message_not_object(row: DatasetRecord) -> Iterator[Violation]:
    """A message is not an object.

    Why: The service reads role and content from every message.
    Fix: Write it as {"role": …, "content": …}.
    Source: OpenAI API description of 2025-05-20; cookbook data preparation.
    """
    for base, messages in row.lists:
        for index, message in enumerate(messages if type(messages) is list else ()):
            if type(message) is not dict:
                yield Violation(f"{base}[{index}]", f"The message is {describe_value(message)}, not an object.")


@rule("FT204", "missing-role", "error", "R", "observed", when=NON_PLAIN, formats=MESSAGE_FORMATS)
def missing_role(row: DatasetRecord) -> Iterator[Violation]:
    """A message has no ``role``.

    Why: The service cannot tell who wrote the message and rejects the file.
    Fix: Add "role" with the value system, user, assistant or tool.
    Source: public run log (discriminator role missing, with example and message number).
    """
    for base, index, message in row.messages():
        if "role" not in message:
            wrong = next((key for key in ("from", "Role", "author", "speaker") if key in message), None)
            hint = f"Rename the key {wrong!r} to role." if wrong else ""
            yield Violation(f"{base}[{index}].role", "The message has no role.", hint=hint)


@rule(
    "FT205",
    "unknown-role",
    "error",
    "R",
    "documented",
    when=NON_PLAIN,
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "use the closest known role"),
)
def unknown_role(row: DatasetRecord) -> Iterator[Violation]:
    """A message has a role that the API does not know.

    Why: The service rejects it.
    Fix: Use system, user, assistant or tool.
    Source: OpenAI API description of 2025-05-20; cookbook data preparation.
    """
    for base, index, message in row.messages():
        role = message.get("role", "user")
        if role == "function" and row.file.target in NO_LEGACY_ROLES:
            hint = "Use tool, and tool_calls in place of function_call."
            yield Violation(f"{base}[{index}].role", "The role function is not known there.", hint=hint)
        elif role not in ROLES if type(role) is str else True:
            word = ROLE_SYNONYMS.get(str(role).strip().lower())
            hint = f"Did you mean {word!r}?" if word else did_you_mean(str(role).lower(), ROLES)
            yield Violation(f"{base}[{index}].role", f"Unknown role {describe_text(role)}.", hint=hint)


@rule("FT206", "missing-content", "error", "R", "documented", when=NON_PLAIN, formats=MESSAGE_FORMATS)
def missing_content(row: DatasetRecord) -> Iterator[Violation]:
    """A message has neither content nor a tool call.

    Why: Only an assistant message with tool_calls, function_call, refusal or audio can omit the content.
    Fix: Add "content".
    Source: OpenAI API description of 2025-05-20.
    """
    for base, index, message in row.messages():
        if message.get("content") is not None or message.get("role") == "function":
            continue
        if any(message.get(key) for key in ("tool_calls", "function_call", "refusal", "audio")):
            continue
        state = "null" if "content" in message else "missing"
        yield Violation(
            f"{base}[{index}].content",
            f"The content of the {speaker(message)} is {state}.",
        )


@rule(
    "FT207",
    "content-wrong-type",
    "error",
    "R",
    "observed",
    when=NON_PLAIN,
    formats=MESSAGE_FORMATS,
    fix=("safe", "join text parts into one string"),
)
def content_wrong_type(row: DatasetRecord) -> Iterator[Violation]:
    """The content is not a string, or is a list of parts in a role that accepts only a string.

    Why: The service asks for a valid string; lists of parts are for user (and assistant) messages.
    Fix: Write the content as one string.
    Source: community.openai.com/t/965584; the API description of 2025-05-20 allows text parts: the sources
        disagree.
    """
    for base, index, message in row.messages():
        content, role = message.get("content"), message.get("role")
        path = f"{base}[{index}].content"
        if content is None or type(content) is str:
            continue
        if type(content) is not list:
            yield Violation(path, f"The content is {describe_value(content)}, not a string.")
        elif role in ("system", "developer", "tool", "function"):
            yield Violation(path, f"The content of a {role} message is a list of parts, not a string.")
        else:
            yield from content_part_violations(path, content)
            if row.file.target == "local":
                yield from _audio_parts(path, content)


def message_keys(target: str, message: dict[str, Any]) -> frozenset[str]:
    """The keys that a message can have at a target."""
    is_answer = target == "together" and message.get("role") == "assistant"
    return MESSAGE_KEYS | REASONING_KEYS if is_answer else MESSAGE_KEYS


def _audio_parts(path: str, parts: list[Any]) -> Iterator[Violation]:
    for index, part in enumerate(parts):
        if type(part) is dict and part.get("type") == "input_audio":
            hint = "Remove the audio, or train with another provider."
            yield Violation(f"{path}[{index}].type", "The part is audio, which local models cannot read.", hint=hint)


def content_part_violations(path: str, parts: list[Any]) -> Iterator[Violation]:
    """Content parts that are neither text nor image, or lack what their type requires."""
    if not parts:
        yield Violation(path, "The content is an empty list.")
    for index, part in enumerate(parts):
        kind = part.get("type") if type(part) is dict else None
        if type(part) is not dict or type(kind) is not str:
            yield Violation(f"{path}[{index}]", f"The part is {describe_value(part)}, not an object with a type.")
        elif kind == "text" and type(part.get("text")) is not str:
            state = describe_value(part["text"]) if "text" in part else "missing"
            yield Violation(f"{path}[{index}].text", f"The text of the part is {state}; it must be a string.")
        elif kind not in ("text", "image_url", "refusal", "input_audio"):
            hint = did_you_mean(kind, ("text", "image_url"))
            yield Violation(f"{path}[{index}].type", f"Unknown part type '{escape_preview(kind, 30)}'.", hint=hint)


@rule(
    "FT214",
    "unknown-message-key",
    "error",
    "R",
    "documented",
    when=NON_PLAIN,
    formats=MESSAGE_FORMATS,
    fix=("unsafe", "move the key to a separate file"),
)
def unknown_message_key(row: DatasetRecord) -> Iterator[Violation]:
    """A message has a key that the API does not know.

    Why: The service rejects unknown keys, and so does the cookbook's check.
    Fix: Remove the key, unless its value belongs into a known key, such as weight or content.
    Source: OpenAI API description of 2025-05-20; cookbook data preparation. Together reads reasoning and
        reasoning_content of assistant messages.
    """
    for base, index, message in row.messages():
        known = message_keys(row.file.target, message)
        for key in message:
            if key not in known:
                path = key_path(f"{base}[{index}]", key)
                hint = KEY_HINTS.get(key) or did_you_mean_or_remove(key, known)
                if message.get("role") == "assistant" and is_left_out(key, message[key]):
                    hint = "It says not to learn this answer: write weight 0 instead, as `ftpipe convert FILE` does."
                yield Violation(path, f"Unknown key '{escape_preview(key, 40)}'.", hint=hint)


@rule(
    "FT215",
    "invalid-weight",
    "error",
    "D",
    "documented",
    when=NON_PLAIN,
    formats=MESSAGE_FORMATS,
    fix=("safe", "write 1.0 as 1 and 0.0 as 0"),
)
def invalid_weight(row: DatasetRecord) -> Iterator[Violation]:
    """A weight is not 0 or 1, or is on a message that is not from the assistant.

    Why: Only assistant messages are trained; the weight turns training on or off for one of them.
    Fix: Use 0 or 1, on assistant messages only.
    Source: OpenAI API description FineTuneChatCompletionRequestAssistantMessage, 2026-08-21.
    """
    for base, index, message in row.messages():
        if "weight" not in message:
            continue
        weight, path = message["weight"], f"{base}[{index}].weight"
        if type(weight) is not int or weight not in (0, 1):
            yield Violation(path, f"The weight is {describe_value(weight)}; it must be the number 0 or 1.")
        elif message.get("role") != "assistant":
            yield Violation(path, f"The {speaker(message)} has a weight; only assistant messages can have one.")


@rule("FT217", "invalid-name", "error", "D", "documented", when=NON_PLAIN, formats=MESSAGE_FORMATS)
def invalid_name(row: DatasetRecord) -> Iterator[Violation]:
    """A ``name`` is longer than 64 characters, or has characters other than letters, digits, ``_`` and ``-``.

    Why: The API rejects such names.
    Fix: Use at most 64 letters, digits, underscores and hyphens.
    Source: OpenAI API description, 2026-08-21.
    """
    for base, index, message in row.messages():
        name = message.get("name")
        if name is not None and not (type(name) is str and _NAME.fullmatch(name)):
            yield Violation(f"{base}[{index}].name", f"The name {describe_text(name)} is not allowed.")


@rule(
    "FT219",
    "developer-role",
    "warning",
    "D",
    "inferred",
    when=NON_PLAIN,
    formats=frozenset({"chat", "dpo"}),
    fix=("safe", "use system"),
    together="error",
    fireworks="error",
    local="off",
)
def developer_role(row: DatasetRecord) -> Iterator[Violation]:
    """A supervised or preference file uses the role ``developer``.

    Why: The schema of these files has the role system instead; developer belongs to reinforcement files.
    Fix: Use the role system.
    Source: OpenAI API description of 2025-05-20; whether the service accepts the role is not known. Together's data
        preparation page and Fireworks' supervised guide, 2026-08, list system, user, assistant and tool.
    """
    if FORMAT_OF.get(row.file.method or "") == "rft":
        return
    for base, index, message in row.messages():
        if message.get("role") == "developer":
            yield Violation(f"{base}[{index}].role", "The role developer is not part of the supervised schema.")
