"""Writes chat records from prompt/completion, Alpaca, ShareGPT and tables, and says why it leaves a row out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ftpipe.dataset.formats import legacy_shape, shape_of
from ftpipe.dataset.source_readers import SourceRow, read_source_rows
from ftpipe.errors import DatasetError, LocalStateError
from ftpipe.suggestions import did_you_mean

KEEP_SKIPPED = 100
_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    "system": "system",
    "function_call": "call",
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
}
PROMPT_COLUMNS = ("prompt", "question", "instruction", "user", "query", "input", "text")
COMPLETION_COLUMNS = ("completion", "answer", "response", "output", "assistant", "label", "target")
_SYSTEM = ("system", "system_prompt")
_SEPARATORS = ("\n\n###\n\n", "\n\n###", " ->")
"""What the guide of the old format put behind a prompt. Source: OpenAI legacy fine-tuning guide, 2023."""
Messages = list[dict[str, Any]]


class Skipped(NamedTuple):
    """A row that became no record."""

    row: int
    line: int | None
    column: str
    """Empty where the fault is not one column's."""
    reason: str

    def __str__(self) -> str:
        """``row 4 (line 6), column answer: it is empty``."""
        line = f" (line {self.line})" if self.line is not None and self.line != self.row else ""
        column = f", column {self.column}" if self.column else ""
        return f"row {self.row}{line}{column}: {self.reason}"


class Converted(NamedTuple):
    """What was converted."""

    output: Path
    source: str
    """Name of the format that was read."""
    records: int
    skipped: tuple[Skipped, ...]
    """The first hundred rows that were left out."""
    skipped_total: int


class _SkipRow(Exception):
    """A record that cannot become a dialogue: column and reason."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


def convert(path: Path, output: Path, *, system: str = "", columns: tuple[str, str] | None = None) -> Converted:
    """Convert a file to chat JSONL.

    Args:
        path: ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet``.
        output: The new file.
        system: System message to put before each dialogue that has none.
        columns: Names of the question's and the answer's column, where they cannot be guessed.

    Raises:
        DatasetError: No record could be converted, a named column is missing, or the file is not what its name says.
        MissingExtraError: Parquet without pyarrow.
        UsageError: The file is missing.
        LocalStateError: A file cannot be read or written.
    """
    entries = read_source_rows(path)
    first = next(entries, None)
    if first is not None and columns:
        _refuse_missing(path, first, columns)
    job = _Job(system, columns)
    partial = output.with_name(f".{output.name}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            for entry in chain([first] if first else [], entries):
                file.write(job.line(entry))
        if job.written:
            partial.replace(output)
    except OSError as exc:
        raise LocalStateError(
            f"{exc.filename or output} cannot be written: {exc.strerror}.", "Check the folder and the disk."
        ) from exc
    finally:
        partial.unlink(missing_ok=True)
    if not job.written:
        why = f": {job.skipped[0]}" if job.skipped else ", for it has no rows"
        raise DatasetError(f"No record of {path.name} could be converted{why}.", _columns_hint(first))
    return Converted(output, job.source or "unknown", job.written, tuple(job.skipped), job.skipped_total)


def _refuse_missing(path: Path, first: SourceRow, columns: tuple[str, str]) -> None:
    for column in columns:
        if first.record and column not in first.record:
            raise DatasetError(f"{path.name} has no column {column!r}.", did_you_mean(column, first.record))


def _columns_hint(first: SourceRow | None) -> str:
    names = ", ".join(list(first.record)[:12]) if first else ""
    return f"Name the columns: --columns QUESTION,ANSWER{f'; the file has {names}' if names else ''}"


class _Job:
    """The conversion of one file."""

    def __init__(self, system: str, columns: tuple[str, str] | None) -> None:
        self.system, self.columns = system, columns
        self.source = ""
        self.written = self.skipped_total = 0
        self.skipped: list[Skipped] = []

    def line(self, entry: SourceRow) -> bytes:
        """The line to write for a row; empty where it is left out."""
        try:
            if entry.fault:
                raise _SkipRow("", entry.fault)
            name, messages = dialogue_of(entry.record, self.columns)
            made = self._dumped(entry.record, messages)
        except _SkipRow as unusable:
            self.skipped_total += 1
            if len(self.skipped) < KEEP_SKIPPED:
                self.skipped.append(Skipped(entry.row, entry.line, unusable.column, unusable.reason))
            return b""
        self.source = self.source or name
        self.written += 1
        return made

    def _dumped(self, record: dict[str, Any], messages: Messages) -> bytes:
        if self.system and messages[0].get("role") != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        rest = {key: record[key] for key in ("tools", "parallel_tool_calls") if record.get(key) is not None}
        if isinstance(rest.get("tools"), str):
            rest["tools"] = _parsed("tools", rest["tools"])
        try:
            return orjson.dumps({"messages": messages, **rest}) + b"\n"
        except orjson.JSONEncodeError as exc:
            raise _SkipRow("", str(exc)) from exc


def dialogue_of(record: dict[str, Any], columns: tuple[str, str] | None) -> tuple[str, Messages]:
    """Name of the record's format, and its messages."""
    if columns:
        return "table", _pair(columns, (record.get(columns[0]), record.get(columns[1])), "")
    if shape_of(record) == "messages":
        return "chat", _messages(record["messages"])
    name = legacy_shape(record)
    system = next((record[key] for key in _SYSTEM if isinstance(record.get(key), str)), "")
    if name == "ShareGPT":
        return name, _turns(record, system)
    if name == "Alpaca":
        return name, _alpaca(record, system)
    lower = {key.lower().strip(): key for key in record}
    asked = _column(lower, record, PROMPT_COLUMNS, "question")
    answered = _column(lower, record, COMPLETION_COLUMNS, "answer")
    question = record[asked]
    if name and isinstance(question, str):
        question = next((question.removesuffix(end) for end in _SEPARATORS if question.endswith(end)), question)
    return name or "table", _pair((asked, answered), (question, record[answered]), system)


def _column(lower: dict[str, str], record: dict[str, Any], known: tuple[str, ...], what: str) -> str:
    """The column that holds the question or the answer; the first one that is filled, else the first one."""
    found = [lower[name] for name in known if name in lower]
    if not found:
        raise _SkipRow("", f"no column is named like the {what} ({', '.join(known[:4])} …)")
    return next((name for name in found if record[name] not in (None, "")), found[0])


def _pair(names: tuple[str, str], values: tuple[object, object], system: str) -> Messages:
    asked, answered = (_text(name, value) for name, value in zip(names, values, strict=True))
    answered = answered.removesuffix("###").removesuffix("END").strip()
    if not answered:
        raise _SkipRow(names[1], "it is empty")
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _text(column: str, value: object) -> str:
    if value is None:
        raise _SkipRow(column, "it is missing")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if not text.strip():
        raise _SkipRow(column, "it is empty")
    return text.strip()


def _messages(listed: object) -> Messages:
    if not isinstance(listed, list) or not listed or not all(isinstance(message, dict) for message in listed):
        raise _SkipRow("messages", "it is no list of messages")
    return list(listed)


def _alpaca(record: dict[str, Any], system: str) -> Messages:
    answer = "output" if "output" in record else "response"
    asked, more = record.get("instruction"), record.get("input")
    if isinstance(asked, str) and more:
        asked = f"{asked}\n\n{more}"
    pair = _pair(("instruction", answer), (asked, record.get(answer)), system)
    earlier = list(_history(record.get("history")))
    return [*pair[:-2], *earlier, *pair[-2:]]


def _history(listed: object) -> Iterator[dict[str, Any]]:
    for turn in listed if isinstance(listed, list) else ():
        if not isinstance(turn, list) or len(turn) != 2:
            raise _SkipRow("history", "it is no list of pairs")
        yield {"role": "user", "content": _text("history", turn[0])}
        yield {"role": "assistant", "content": _text("history", turn[1])}


def _turns(record: dict[str, Any], system: str) -> Messages:
    key = "conversations" if "conversations" in record else "conversation"
    listed = record[key]
    messages: Messages = []
    for place, turn in enumerate(listed if isinstance(listed, list) else ()):
        messages.append(_turn(f"{key}[{place}]", turn, messages))
    if system and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    for role in ("user", "assistant"):
        if not any(message["role"] == role for message in messages):
            raise _SkipRow(key, f"it has no turn of the {role}")
    return messages


def _turn(where: str, turn: object, before: Messages) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise _SkipRow(where, "it is no object")
    speaker = str(turn.get("from") or turn.get("role"))
    role = _SPEAKERS.get(speaker.lower())
    if role is None:
        raise _SkipRow(where, f"nobody is known as {speaker[:40]!r}")
    text = turn.get("value") if "value" in turn else turn.get("content")
    if not isinstance(text, str):
        raise _SkipRow(where, "its value is no text")
    if role == "call":
        return _call(where, text, len(before))
    if role == "tool":
        made = [call["id"] for message in before[-1:] for call in message.get("tool_calls", ())]
        if not made:
            raise _SkipRow(where, "it answers no call")
        return {"role": "tool", "tool_call_id": made[0], "content": text}
    return {"role": role, "content": text}


def _call(where: str, text: str, place: int) -> dict[str, Any]:
    made = _parsed(where, text)
    if not isinstance(made, dict) or not isinstance(made.get("name"), str):
        raise _SkipRow(where, "the call has no name")
    arguments = made.get("arguments", {})
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": made["name"], "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": f"call_{place}", "type": "function", "function": function}]}


def _parsed(where: str, text: str) -> Any:  # noqa: ANN401  # any JSON value
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise _SkipRow(where, "it is no JSON") from exc
