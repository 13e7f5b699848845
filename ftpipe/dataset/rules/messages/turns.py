"""FT2, how messages follow each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import NON_PLAIN
from ftpipe.dataset.rules.base import RuleGroup, Violation, escape_preview

FAMILY = RuleGroup("Messages")
rule = FAMILY.rule
_CHAT = frozenset({"chat"})
_DIALOGUES = frozenset({"chat", "rft", "dpo"})


def dialogue(row: DatasetRecord) -> tuple[str, list[Any]]:
    """The row's dialogue, in a DPO row its prompt; an empty list where there is none."""
    for base, messages in row.lists:
        if base.endswith("messages") and type(messages) is list:
            return base, messages
    return "messages", []


def roles_of(messages: list[Any]) -> list[str]:
    """The role of each message, an empty word where there is none."""
    roles = [message.get("role") if type(message) is dict else None for message in messages]
    return [role if type(role) is str else "" for role in roles]


@rule("FT209", "no-assistant", "error", "R", "documented", when=NON_PLAIN, formats=_CHAT)
def no_assistant(row: DatasetRecord) -> Iterator[Violation]:
    """The dialogue has no assistant message.

    Why: Only assistant messages are learnt, so there is nothing to learn.
    Fix: Add the answer that the model shall give.
    Source: cookbook data preparation.
    """
    base, messages = dialogue(row)
    if messages and "assistant" not in roles_of(messages):
        yield Violation(base, "No message is from the assistant.")


@rule(
    "FT210",
    "last-not-assistant",
    "error",
    "D",
    "inferred",
    when=NON_PLAIN,
    formats=_CHAT,
    fix=("unsafe", "drop what follows the last answer"),
    nebius="warning",
    local="warning",
)
def last_not_assistant(row: DatasetRecord) -> Iterator[Violation]:
    """The dialogue does not end with the assistant.

    Why: What follows the last answer is never learnt; services expect the answer at the end.
    Fix: End the dialogue with the answer, or drop what follows it.
    Source: universal in published examples, no official sentence; Nebius' own sample has such rows.
    """
    base, messages = dialogue(row)
    roles = roles_of(messages)
    if "assistant" in roles and roles[-1] != "assistant":
        yield Violation(
            f"{base}[{len(roles) - 1}].role", f"The last message is from {escape_preview(roles[-1], 20) or 'nobody'}."
        )


@rule("FT211", "system-not-first", "warning", "D", "documented", when=NON_PLAIN, formats=_DIALOGUES)
def system_not_first(row: DatasetRecord) -> Iterator[Violation]:
    """A system message stands after other turns.

    Why: Models read instructions at the beginning; some hosts refuse them later.
    Fix: Move it to the front.
    Source: Fireworks documentation.
    """
    base, messages = dialogue(row)
    turned = False
    for index, role in enumerate(roles_of(messages)):
        if role in ("system", "developer") and turned:
            yield Violation(f"{base}[{index}].role", f"A {role} message stands after other turns.")
        turned = turned or role not in ("system", "developer")


@rule("FT212", "many-system", "info", "Q", "inferred", when=NON_PLAIN, formats=_DIALOGUES, fix=("unsafe", "join them"))
def many_system(row: DatasetRecord) -> Iterator[Violation]:
    """The dialogue has more than one system message.

    Why: At use there is usually one; what is trained differs from what is asked later.
    Fix: Join them to one message.
    Source: practice.
    """
    base, messages = dialogue(row)
    places = [i for i, role in enumerate(roles_of(messages)) if role == "system"]
    if len(places) > 1:
        yield Violation(f"{base}[{places[1]}].role", f"There are {len(places)} system messages.")


@rule(
    "FT213",
    "roles-do-not-alternate",
    "info",
    "D",
    "observed",
    when=NON_PLAIN,
    formats=_DIALOGUES,
    fix=("unsafe", "join them"),
)
def roles_do_not_alternate(row: DatasetRecord) -> Iterator[Violation]:
    """Two messages of the user, or two of the assistant, follow each other.

    Why: Legal at hosted services; chat templates of some open models refuse it.
    Fix: Join the two messages.
    Source: OpenAI vision guide's own example; Mistral-7B-Instruct-v0.3 discussion 13.
    """
    base, messages = dialogue(row)
    roles = roles_of(messages)
    for index in range(1, len(roles)):
        if roles[index] == roles[index - 1] and roles[index] in ("user", "assistant"):
            yield Violation(f"{base}[{index}].role", f"Two {roles[index]} messages follow each other.")


@rule("FT221", "assistant-first", "warning", "Q", "inferred", when=NON_PLAIN, formats=_CHAT)
def assistant_first(row: DatasetRecord) -> Iterator[Violation]:
    """The dialogue begins with the assistant.

    Why: The model learns to speak without having been asked; some chat templates refuse it.
    Fix: Put the user's message before it, or set the message's weight to 0.
    Source: practice; role-play sets use it on purpose.
    """
    base, messages = dialogue(row)
    for index, role in enumerate(roles_of(messages)):
        if role not in ("system", "developer"):
            if role == "assistant":
                yield Violation(f"{base}[{index}].role", "The first turn is the assistant's.")
            return
