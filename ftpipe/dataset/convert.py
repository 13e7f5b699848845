"""Converts prompt/completion, Alpaca and ShareGPT records and tables to chat JSONL, and reports the rows it skips."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jsonlines
import orjson

from ftpipe.dataset.formats import legacy_shape, shape_of
from ftpipe.dataset.source_readers import SourceRow, read_source_rows
from ftpipe.errors import DatasetError
from ftpipe.output_files import check_outputs, open_output
from ftpipe.suggestions import did_you_mean

MAX_REPORTED_ROWS = 100
PROMPT_COLUMNS = ("prompt", "question", "instruction", "user", "query", "input", "text")
COMPLETION_COLUMNS = ("completion", "answer", "response", "output", "assistant", "label", "target")
SYSTEM_COLUMNS = ("system", "system_prompt")
_ROLE_OF_SPEAKER = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    "system": "system",
    "function_call": "call",
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
}
_PROMPT_SUFFIXES = ("\n\n###\n\n", "\n\n###", " ->")
"""Separators that the guide of the old format put after a prompt. Source: OpenAI legacy fine-tuning guide, 2023."""
Messages = list[dict[str, Any]]


class SkippedRow(NamedTuple):
    """A row that could not be converted."""

    row: int
    line: int | None
    column: str
    """Empty if the reason does not concern one column."""
    reason: str

    def __str__(self) -> str:
        """``row 4 (line 6), column answer: it is empty``."""
        line = f" (line {self.line})" if self.line is not None and self.line != self.row else ""
        column = f", column {self.column}" if self.column else ""
        return f"row {self.row}{line}{column}: {self.reason}"


class ConversionResult(NamedTuple):
    """The output file and the rows that are missing from it."""

    output: Path
    source_format: str
    """Name of the format of the first converted record."""
    records: int
    skipped: tuple[SkippedRow, ...]
    """The first hundred rows that were skipped."""
    skipped_total: int


class _SkipRow(Exception):
    """A record cannot become a conversation: column and reason."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


def convert(
    path: Path, output: Path, *, system: str = "", columns: tuple[str, str] | None = None, force: bool = False
) -> ConversionResult:
    """Convert a file to chat JSONL.

    Args:
        path: ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet``.
        output: The new file.
        system: System message to put before each conversation that has none.
        columns: Names of the columns of question and answer, if they cannot be guessed.
        force: Replace the output if it exists.

    Raises:
        DatasetError: No record could be converted, a named column is missing, or the file does not match its suffix.
        MissingExtraError: Parquet without pyarrow.
        UsageError: The file is missing, or the output exists.
        LocalStateError: A file cannot be read or written.
    """
    check_outputs([("--output", output)], inputs=[path], force=force)
    rows = read_source_rows(path)
    first = next(rows, None)
    if first is not None and columns:
        _require_columns(path, first, columns)
    converter = _Converter(system, columns)
    with open_output(output, force=force) as file:
        converter.run(chain([first] if first else [], rows), jsonlines.Writer(file, dumps=orjson.dumps))
        if not converter.records:
            reason = str(converter.skipped[0]) if converter.skipped else "it has no rows"
            raise DatasetError(f"No record of {path.name} could be converted: {reason}.", _columns_hint(first))
    return ConversionResult(
        output,
        converter.source_format or "unknown",
        converter.records,
        tuple(converter.skipped),
        converter.skipped_total,
    )


def _require_columns(path: Path, first: SourceRow, columns: tuple[str, str]) -> None:
    for column in columns:
        if first.record and column not in first.record:
            raise DatasetError(f"{path.name} has no column {column!r}.", did_you_mean(column, first.record))


def _columns_hint(first: SourceRow | None) -> str:
    names = ", ".join(list(first.record)[:12]) if first else ""
    return f"Name the columns: --columns QUESTION,ANSWER{f'; the file has {names}' if names else ''}"


class _Converter:
    """The conversion of one file."""

    def __init__(self, system: str, columns: tuple[str, str] | None) -> None:
        self.system, self.columns = system, columns
        self.source_format = ""
        self.records = self.skipped_total = 0
        self.skipped: list[SkippedRow] = []

    def run(self, rows: Iterator[SourceRow], writer: jsonlines.Writer) -> None:
        """Write a chat record for each row, or remember why there is none."""
        for row in rows:
            try:
                if row.error:
                    raise _SkipRow("", row.error)
                name, messages = conversation_of(row.record, self.columns)
                self._write(writer, row.record, messages)
            except _SkipRow as skip:
                self.skipped_total += 1
                if len(self.skipped) < MAX_REPORTED_ROWS:
                    self.skipped.append(SkippedRow(row.row, row.line, skip.column, skip.reason))
            else:
                self.source_format = self.source_format or name
                self.records += 1

    def _write(self, writer: jsonlines.Writer, record: dict[str, Any], messages: Messages) -> None:
        if self.system and messages[0].get("role") != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        more = {key: record[key] for key in ("tools", "parallel_tool_calls") if record.get(key) is not None}
        if isinstance(more.get("tools"), str):
            more["tools"] = _parse_json("tools", more["tools"])
        try:
            writer.write({"messages": messages, **more})
        except orjson.JSONEncodeError as exc:
            raise _SkipRow("", str(exc)) from exc


def conversation_of(record: dict[str, Any], columns: tuple[str, str] | None) -> tuple[str, Messages]:
    """Name of the record's format, and its messages."""
    if columns:
        return "table", _exchange(columns, (record.get(columns[0]), record.get(columns[1])), "")
    if shape_of(record) == "messages":
        return "chat", _messages(record["messages"])
    name = legacy_shape(record)
    system = next((record[key] for key in SYSTEM_COLUMNS if isinstance(record.get(key), str)), "")
    if name == "ShareGPT":
        return name, _sharegpt(record, system)
    if name == "Alpaca":
        return name, _alpaca(record, system)
    names = {key.lower().strip(): key for key in record}
    question_column = _guess_column(names, record, PROMPT_COLUMNS, "question")
    answer_column = _guess_column(names, record, COMPLETION_COLUMNS, "answer")
    question = record[question_column]
    if name and isinstance(question, str):
        question = next((question.removesuffix(end) for end in _PROMPT_SUFFIXES if question.endswith(end)), question)
    return name or "table", _exchange((question_column, answer_column), (question, record[answer_column]), system)


def _guess_column(names: dict[str, str], record: dict[str, Any], known: tuple[str, ...], what: str) -> str:
    """The first known column that is filled, or else the first known column."""
    columns = [names[name] for name in known if name in names]
    if not columns:
        raise _SkipRow("", f"no column has a usual name for the {what} ({', '.join(known[:4])} …)")
    return next((column for column in columns if record[column] not in (None, "")), columns[0])


def _exchange(columns: tuple[str, str], values: tuple[object, object], system: str) -> Messages:
    question, answer = (_text(column, value) for column, value in zip(columns, values, strict=True))
    answer = answer.removesuffix("###").removesuffix("END").strip()
    if not answer:
        raise _SkipRow(columns[1], "it is empty")
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _text(column: str, value: object) -> str:
    if value is None:
        raise _SkipRow(column, "it is missing")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if not text.strip():
        raise _SkipRow(column, "it is empty")
    return text.strip()


def _messages(messages: object) -> Messages:
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise _SkipRow("messages", "it is not a list of messages")
    return list(messages)


def _alpaca(record: dict[str, Any], system: str) -> Messages:
    answer_column = "output" if "output" in record else "response"
    question, context = record.get("instruction"), record.get("input")
    if isinstance(question, str) and context:
        question = f"{question}\n\n{context}"
    exchange = _exchange(("instruction", answer_column), (question, record.get(answer_column)), system)
    return [*exchange[:-2], *_alpaca_history(record.get("history")), *exchange[-2:]]


def _alpaca_history(history: object) -> Iterator[dict[str, Any]]:
    for turn in history if isinstance(history, list) else ():
        if not isinstance(turn, list) or len(turn) != 2:
            raise _SkipRow("history", "it is not a list of pairs")
        yield {"role": "user", "content": _text("history", turn[0])}
        yield {"role": "assistant", "content": _text("history", turn[1])}


def _sharegpt(record: dict[str, Any], system: str) -> Messages:
    key = "conversations" if "conversations" in record else "conversation"
    turns = record[key]
    messages: Messages = []
    for index, turn in enumerate(turns if isinstance(turns, list) else ()):
        messages.append(_sharegpt_message(f"{key}[{index}]", turn, messages))
    if system and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    for role in ("user", "assistant"):
        if not any(message["role"] == role for message in messages):
            raise _SkipRow(key, f"it has no turn of the {role}")
    return messages


def _sharegpt_message(path: str, turn: object, earlier: Messages) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise _SkipRow(path, "it is not an object")
    speaker = str(turn.get("from") or turn.get("role"))
    role = _ROLE_OF_SPEAKER.get(speaker.lower())
    if role is None:
        raise _SkipRow(path, f"unknown speaker {speaker[:40]!r}")
    text = turn.get("value") if "value" in turn else turn.get("content")
    if not isinstance(text, str):
        raise _SkipRow(path, "its value is not a text")
    if role == "call":
        return _tool_call_message(path, text, len(earlier))
    if role == "tool":
        call_ids = [call["id"] for message in earlier[-1:] for call in message.get("tool_calls", ())]
        if not call_ids:
            raise _SkipRow(path, "there is no call before this result")
        return {"role": "tool", "tool_call_id": call_ids[0], "content": text}
    return {"role": role, "content": text}


def _tool_call_message(path: str, text: str, index: int) -> dict[str, Any]:
    call = _parse_json(path, text)
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise _SkipRow(path, "the call has no name")
    arguments = call.get("arguments", {})
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": call["name"], "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": f"call_{index}", "type": "function", "function": function}]}


def _parse_json(path: str, text: str) -> Any:  # noqa: ANN401  # any JSON value
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise _SkipRow(path, "it is not JSON") from exc
