"""One row as the page shows it: its conversation, each finding at its place, and what a search has found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ftpipe.dataset.formats import message_lists, shape_of
from ftpipe.dataset.line_index import IndexedLine
from ftpipe.dataset.row_search import parse_row
from ftpipe.ui.datasets.check_result import RowFinding

MAX_TEXT_CHARACTERS = 20_000
"""Characters of one text that are shown."""
MAX_FIRST_CHARACTERS = 4000
"""Characters of one text that are shown before all are wanted; a search shows all."""
MAX_SUMMARY_CHARACTERS = 160
MAX_MESSAGES = 200
LIST_TITLES = {
    "input.messages": "prompt",
    "preferred_output": "preferred answer",
    "non_preferred_output": "non-preferred answer",
}


class Segment(NamedTuple):
    """A part of a text."""

    text: str
    mark: str = ""
    """``hit`` of a search, ``fault`` of a finding, or empty."""


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message with its findings."""

    role: str
    path: str
    segments: tuple[Segment, ...]
    weight: str = ""
    """``weight 0`` if the answer is not trained."""
    calls: tuple[tuple[str, str], ...] = ()
    """Name and arguments of each tool call."""
    findings: tuple[RowFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class RowView:
    """A row."""

    line: int
    lists: tuple[tuple[str, tuple[MessageView, ...]], ...]
    """Title and messages of each list: one for a chat record, three for a pair; none for a line that is no record."""
    other_fields: str
    """Fields beside the messages, as JSON; empty if there are none."""
    raw: tuple[Segment, ...]
    """The line as it is written, for a line that is no record."""
    findings: tuple[RowFinding, ...]
    """Findings that belong to no message."""
    hidden_messages: int = 0
    is_cut: bool = False
    """Whether a text is shown in part, of which more can be shown."""

    @property
    def finding_count(self) -> int:
        """All findings of the row."""
        return len(self.findings) + sum(len(m.findings) for _, messages in self.lists for m in messages)


class RowSummary(NamedTuple):
    """A row in the list of rows."""

    line: int
    prompt: tuple[Segment, ...]
    answer: tuple[Segment, ...]
    is_readable: bool
    codes: tuple[tuple[str, str], ...]
    """Code and severity of each rule that it violates."""


def view_row(line: IndexedLine, findings: Sequence[RowFinding], query: str = "", *, is_full: bool = True) -> RowView:
    """A row with its findings.

    Args:
        line: The line.
        findings: What the check has found in it.
        query: What was searched for.
        is_full: Whether long texts are shown as far as a page can; else their beginning, unless something was searched.
    """
    limit = MAX_TEXT_CHARACTERS if is_full or query else MAX_FIRST_CHARACTERS
    record = parse_row(line)
    lists = _lists(record) if record is not None else []
    if record is None or not lists:
        excerpts = [finding.excerpt for finding in findings]
        shown = line.raw.decode("utf-8", "replace")
        raw = tuple(segments(shown, query, excerpts, limit=limit))
        return RowView(line.number, (), "", raw, tuple(findings), is_cut=_is_cut(shown, limit))
    pending = list(findings)
    views, hidden, is_cut = [], 0, False
    for path, messages in lists:
        hidden += max(0, len(messages) - MAX_MESSAGES)
        shown_messages = []
        for index, message in enumerate(messages[:MAX_MESSAGES]):
            own = [one for one in pending if _is_at(one.path, f"{path}[{index}]")]
            pending = [one for one in pending if one not in own]
            shown_messages.append(_message(message, f"{path}[{index}]", own, query, limit))
            is_cut = is_cut or (isinstance(message, dict) and _is_cut(_text_of(message), limit))
        views.append((LIST_TITLES.get(path, ""), tuple(shown_messages)))
    known = {"messages", *LIST_TITLES, "input"}
    others = {key: value for key, value in record.items() if key not in known}
    if isinstance(source := record.get("input"), dict):
        others |= {key: value for key, value in source.items() if key != "messages"}
    text = _pretty(others)[:MAX_TEXT_CHARACTERS] if others else ""
    return RowView(line.number, tuple(views), text, (), tuple(pending), hidden, is_cut)


def summarize_row(line: IndexedLine, findings: Iterable[RowFinding], query: str = "") -> RowSummary:
    """A row as one line of the list: its last question and its answer."""
    codes = tuple(dict.fromkeys((finding.code, finding.severity) for finding in findings))
    record = parse_row(line)
    lists = _lists(record) if record is not None else []
    if not lists:
        shown = line.raw[: MAX_SUMMARY_CHARACTERS * 4].decode("utf-8", "replace")
        return RowSummary(line.number, tuple(excerpt(shown, query)), (), False, codes)
    messages = [message for message in lists[0][1] if isinstance(message, dict)]
    answers = lists[1][1] if len(lists) > 1 else messages
    prompt = next((m for m in reversed(messages) if m.get("role") == "user"), messages[0] if messages else {})
    answer = next((m for m in reversed(answers) if isinstance(m, dict) and m.get("role") == "assistant"), {})
    texts = [_text_of(message) for message in (prompt, answer)]
    if query and not any(query.casefold() in text.casefold() for text in texts):
        hit = next((text for m in messages if query.casefold() in (text := _text_of(m)).casefold()), "")
        texts[0] = hit or texts[0]
    prompt_text, answer_text = (tuple(excerpt(text, query)) for text in texts)
    return RowSummary(line.number, prompt_text, answer_text, True, codes)


def _is_cut(text: str, limit: int) -> bool:
    return limit < MAX_TEXT_CHARACTERS and len(text) > limit


def segments(
    text: str, query: str = "", excerpts: Iterable[str] = (), *, limit: int = MAX_TEXT_CHARACTERS
) -> Iterator[Segment]:
    """A text with what was searched for and what findings are about marked."""
    text = text[:limit] + (" …" if len(text) > limit else "")
    marks = {re.escape(one): "fault" for one in excerpts if one and one in text}
    if query:
        marks[re.escape(query)] = "hit"
    if not marks:
        yield Segment(text)
        return
    pattern = re.compile("|".join(f"({one})" for one in marks), re.IGNORECASE)
    kinds, at = list(marks.values()), 0
    for match in pattern.finditer(text):
        if match.start() > at:
            yield Segment(text[at : match.start()])
        yield Segment(match[0], kinds[(match.lastindex or 1) - 1])
        at = match.end()
    if at < len(text):
        yield Segment(text[at:])


def excerpt(text: str, query: str = "") -> Iterator[Segment]:
    """The beginning of a text, or the part with what was searched for, as one line."""
    line = " ".join(text.split()) if len(text) < MAX_TEXT_CHARACTERS else " ".join(text[:MAX_TEXT_CHARACTERS].split())
    at = line.casefold().find(query.casefold()) if query else 0
    start = max(0, at - MAX_SUMMARY_CHARACTERS // 3) if at > MAX_SUMMARY_CHARACTERS // 2 else 0
    shown = line[start : start + MAX_SUMMARY_CHARACTERS]
    before, after = "… " if start else "", " …" if start + MAX_SUMMARY_CHARACTERS < len(line) else ""
    return segments(f"{before}{shown}{after}", query)


def _lists(record: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    kind = "dpo" if shape_of(record) == "dpo" else "chat"
    return [(path, messages) for path, messages in message_lists(record, kind) if isinstance(messages, list)]


def _is_at(path: str, message_path: str) -> bool:
    return path == message_path or path.startswith((f"{message_path}.", f"{message_path}["))


def _message(message: object, path: str, findings: Sequence[RowFinding], query: str, limit: int) -> MessageView:
    excerpts = [finding.excerpt for finding in findings]
    if not isinstance(message, dict):
        return MessageView("?", path, tuple(segments(_pretty(message), query, excerpts)), findings=tuple(findings))
    role = str(message.get("role", "no role"))[:40]
    if isinstance(name := message.get("name"), str):
        role += f" {name[:60]}"
    return MessageView(
        role=role,
        path=path,
        segments=tuple(segments(_text_of(message), query, excerpts, limit=limit)),
        weight="weight 0" if message.get("weight") == 0 else "",
        calls=tuple(_calls(message)),
        findings=tuple(findings),
    )


def _calls(message: dict[str, Any]) -> Iterator[tuple[str, str]]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            arguments = function.get("arguments")
            text = arguments if isinstance(arguments, str) else _pretty(arguments)
            yield str(function.get("name"))[:200], text[:MAX_TEXT_CHARACTERS]


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        return _pretty(content)
    parts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else None
        parts.append(text if isinstance(text, str) else f"[{part.get('type', '?')}]" if isinstance(part, dict) else "?")
    return "\n".join(parts)


def _pretty(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)
