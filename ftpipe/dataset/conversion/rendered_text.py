"""Splits a dialogue that was written as one text, with the markers of its format, into messages."""

from __future__ import annotations

import re
from typing import NamedTuple

from ftpipe.dataset.conversion.row import Messages, SkipRow


class TextFormat(NamedTuple):
    """How a format marks who speaks in a text."""

    name: str
    marker: re.Pattern[str]
    """Matches a marker with the white space that belongs to it; the group ``speaker`` names who speaks."""
    roles: dict[str, str]
    end: str = ""
    """What ends each turn."""


TEXT_FORMATS = (
    TextFormat(
        "guanaco text",
        re.compile(r"\n?### (?P<speaker>Human|Assistant|System):[ \n]?"),
        {"Human": "user", "Assistant": "assistant", "System": "system"},
    ),
    TextFormat(
        "Human/Assistant text",
        re.compile(r"(?:^|\n\n)(?P<speaker>Human|Assistant):[ \n]?"),
        {"Human": "user", "Assistant": "assistant"},
    ),
    TextFormat(
        "USER/ASSISTANT text",
        re.compile(r"(?:^|\n{1,3}| )(?P<speaker>USER|ASSISTANT|SYSTEM):[ \n]"),
        {"USER": "user", "ASSISTANT": "assistant", "SYSTEM": "system"},
    ),
    TextFormat(
        "Alpaca text",
        re.compile(r"(?:^|\n{1,2})### (?P<speaker>Instruction|Input|Response):\n"),
        {"Instruction": "user", "Input": "input", "Response": "assistant"},
    ),
    TextFormat(
        "ChatML text",
        re.compile(r"(?:^|\n?)<\|im_start\|>(?P<speaker>system|user|assistant)\n"),
        {"system": "system", "user": "user", "assistant": "assistant"},
        "<|im_end|>",
    ),
    TextFormat(
        "OASST text",
        re.compile(r"<\|(?P<speaker>prompter|assistant|system)\|>(?!\n)"),
        {"prompter": "user", "assistant": "assistant", "system": "system"},
        "<|endoftext|>",
    ),
    TextFormat(
        "Zephyr text",
        re.compile(r"\n?<\|(?P<speaker>user|assistant|system)\|>\n"),
        {"user": "user", "assistant": "assistant", "system": "system"},
        "</s>",
    ),
)
"""Source: the data cards of openassistant-guanaco, hh-rlhf and alpaca, and the ChatML of the OpenAI cookbook."""
_ALPACA_PREAMBLE = re.compile(r"Below is an instruction that describes a task[^\n]*\s*")
_CONTROL = re.compile(r"<\|[a-z_]{2,30}\|>|<start_of_turn>|\[INST\]|<s>")


def ends_with_assistant(text: str) -> bool:
    """True for a text whose last marker opens the turn of the assistant."""
    return text.rstrip().endswith(("Assistant:", "ASSISTANT:", "### Response:", "<|im_start|>assistant"))


def split_text(column: str, text: str) -> tuple[str, Messages] | None:
    """Name of the text's format and its messages; ``None`` if it has no markers of a known format.

    Raises:
        SkipRow: It has markers, but they do not make a dialogue.
    """
    if "[INST]" in text:
        return "Llama 2 text", _llama(column, text)
    start = _ALPACA_PREAMBLE.sub("", text, count=1) if text.startswith("Below is an instruction") else text
    for text_format in TEXT_FORMATS:
        if text_format.marker.match(start) and (text_format.end or not _CONTROL.search(start)):
            return text_format.name, _split(column, text_format, start)
    if control := _CONTROL.search(text):
        raise SkipRow(column, f"it is rendered with a chat template ({control.group()}); convert the data from before")
    return None


def _split(column: str, text_format: TextFormat, text: str) -> Messages:
    marks = list(text_format.marker.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    messages: Messages = []
    for mark, end in zip(marks, ends, strict=True):
        role, content = text_format.roles[mark["speaker"]], text[mark.end() : end]
        if role == "input":
            messages[-1]["content"] += f"\n\n{content}"
            continue
        if text_format.end:
            content, has_end, rest = content.partition(text_format.end)
            if (not has_end and end < len(text)) or rest.strip() or _CONTROL.search(content):
                raise SkipRow(column, f"a turn does not end with {text_format.end} ({text_format.name})")
        elif role == "assistant":
            content = content.removesuffix("</s>")
        messages.append({"role": role, "content": content})
    speakers = [message["role"] for message in messages if message["role"] != "system"]
    if speakers != ["user", "assistant"] * (len(speakers) // 2) or not speakers:
        raise SkipRow(column, f"its turns are not those of user and assistant in turn ({text_format.name})")
    return messages


def _llama(column: str, text: str) -> Messages:
    """Turns in the form ``<s>[INST] <<SYS>> … <</SYS>> question [/INST] answer </s>``."""
    start, *turns = text.split("[INST]")
    messages: Messages = []
    for turn in turns:
        question, end, answer = turn.partition("[/INST]")
        system, has_system, rest = question.partition("<</SYS>>")
        if has_system and not messages:
            messages.append({"role": "system", "content": system.replace("<<SYS>>", "", 1).strip()})
            question = rest
        answer = answer.rstrip().removesuffix("<s>").rstrip().removesuffix("</s>")
        if not end or "[/INST]" in answer or "<s>" in answer:
            break
        messages.append({"role": "user", "content": question.strip()})
        messages.append({"role": "assistant", "content": answer.removeprefix(" ").removesuffix(" ")})
    else:
        if messages and not start.replace("<s>", "").strip():
            return messages
    raise SkipRow(column, "its turns are not those of user and assistant in turn (Llama 2 text)")
