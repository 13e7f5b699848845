"""FT2: the order of messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftpipe.dataset.check_settings import Level
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import NON_PLAIN
from ftpipe.dataset.rules.base import RuleGroup, Violation, describe_text

GROUP = RuleGroup("Messages")
rule = GROUP.rule
_CHAT = frozenset({"chat"})
_CONVERSATIONS = frozenset({"chat", "rft", "dpo"})
ALTERNATING = frozenset({"together", "fireworks"})
"""Targets that require user and assistant messages to alternate."""


def dialogue(row: DatasetRecord) -> tuple[str, list[Any]]:
    """Path and messages of the conversation, for a DPO record of its prompt; an empty list if there is none."""
    for base, messages in row.lists:
        if base.endswith("messages") and type(messages) is list:
            return base, messages
    return "messages", []


def roles_of(messages: list[Any]) -> list[str]:
    """The role of each message; an empty string if it has none."""
    roles = [message.get("role") if type(message) is dict else None for message in messages]
    return [role if type(role) is str else "" for role in roles]


def role_text(message: object) -> str:
    """``the role 'user'`` for a message, with the type of a role that is not a text."""
    if not isinstance(message, dict) or "role" not in message:
        return "no role"
    return f"the role {describe_text(message['role'])}"


@rule("FT209", "no-assistant-message", "error", "R", "documented", when=NON_PLAIN, formats=_CHAT)
def no_assistant_message(row: DatasetRecord) -> Iterator[Violation]:
    """The conversation has no assistant message.

    Why: Only assistant messages are trained, so there is nothing to learn.
    Fix: Add the answer that the model should give.
    Source: cookbook data preparation.
    """
    base, messages = dialogue(row)
    if messages and "assistant" not in roles_of(messages):
        yield Violation(base, "There is no assistant message.")


@rule(
    "FT210",
    "last-message-not-assistant",
    "error",
    "D",
    "inferred",
    when=NON_PLAIN,
    formats=_CHAT,
    fix=("unsafe", "remove what follows the last answer"),
    nebius="warning",
    together="warning",
    local="warning",
)
def last_message_not_assistant(row: DatasetRecord) -> Iterator[Violation]:
    """The conversation does not end with an assistant message.

    Why: Whatever follows the last answer is never trained, and services expect the answer at the end.
    Fix: End the conversation with the answer, or remove what follows it.
    Source: all published examples do so, but no official page requires it; Nebius' own sample has such records.
    """
    base, messages = dialogue(row)
    roles = roles_of(messages)
    if "assistant" in roles and roles[-1] != "assistant":
        yield Violation(
            f"{base}[{len(roles) - 1}].role",
            f"The last message has {role_text(messages[-1])}, not 'assistant'.",
        )


@rule(
    "FT211",
    "system-not-first",
    "warning",
    "D",
    "documented",
    when=NON_PLAIN,
    formats=_CONVERSATIONS,
    fix=("unsafe", "move it to the beginning"),
    fireworks="error",
)
def system_not_first(row: DatasetRecord) -> Iterator[Violation]:
    """A system message comes after other messages.

    Why: Models expect instructions at the beginning; Fireworks rejects them later.
    Fix: Move it to the beginning.
    Source: Fireworks' supervised guide, 2026-08.
    """
    base, messages = dialogue(row)
    has_turns = False
    for index, role in enumerate(roles_of(messages)):
        if role in ("system", "developer") and has_turns:
            yield Violation(f"{base}[{index}].role", f"A {role} message comes after other messages.")
        has_turns = has_turns or role not in ("system", "developer")


@rule(
    "FT212",
    "multiple-system-messages",
    "info",
    "Q",
    "inferred",
    when=NON_PLAIN,
    formats=_CONVERSATIONS,
    fix=("unsafe", "merge them"),
)
def multiple_system_messages(row: DatasetRecord) -> Iterator[Violation]:
    """The conversation has more than one system message.

    Why: Requests usually have one, so training would differ from use.
    Fix: Merge them into one message.
    Source: practice.
    """
    base, messages = dialogue(row)
    indices = [i for i, role in enumerate(roles_of(messages)) if role == "system"]
    if len(indices) > 1:
        yield Violation(f"{base}[{indices[1]}].role", f"There are {len(indices)} system messages.")


@rule(
    "FT213",
    "roles-do-not-alternate",
    "info",
    "D",
    "observed",
    when=NON_PLAIN,
    formats=_CONVERSATIONS,
    fix=("unsafe", "merge them"),
    azure="warning",
    together="error",
    fireworks="error",
)
def roles_do_not_alternate(row: DatasetRecord) -> Iterator[Violation]:
    """Two user messages or two assistant messages follow each other.

    Why: OpenAI accepts this. At Azure two answers in a row are a warning, because its file check has rejected files
        for their roles. Together and Fireworks document that roles alternate. The chat templates of some open models
        reject it.
    Fix: Merge the two messages.
    Source: OpenAI vision guide's own example; azure-docs issue 120001 (roles); Microsoft's own samples contain two
        answers in a row, so the sources disagree; Mistral-7B-Instruct-v0.3 discussion 13; Together's data preparation
        page and Fireworks' supervised guide, 2026-08.
    """
    base, messages = dialogue(row)
    roles = roles_of(messages)
    for index in range(1, len(roles)):
        if roles[index] == roles[index - 1] and roles[index] in ("user", "assistant"):
            is_accepted = roles[index] == "user" and row.file.target not in ALTERNATING
            level: Level | None = "info" if is_accepted else None
            yield Violation(f"{base}[{index}].role", f"Two {roles[index]} messages follow each other.", level=level)


@rule("FT221", "assistant-first", "warning", "Q", "inferred", when=NON_PLAIN, formats=_CHAT)
def assistant_first(row: DatasetRecord) -> Iterator[Violation]:
    """The conversation starts with an assistant message.

    Why: The model learns to speak before it gets a question; some chat templates reject it.
    Fix: Put the user's message before it, or set its weight to 0.
    Source: practice; role-play datasets do this on purpose.
    """
    base, messages = dialogue(row)
    for index, role in enumerate(roles_of(messages)):
        if role not in ("system", "developer"):
            if role == "assistant":
                yield Violation(f"{base}[{index}].role", "The first message is from the assistant.")
            return
