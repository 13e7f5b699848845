"""Writes chat records from what people really have: prompt/completion, Alpaca, ShareGPT, JSON arrays, CSV, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ftpipe.dataset.fixes.reflow import records_in
from ftpipe.dataset.formats import legacy_shape, shape_of
from ftpipe.dataset.lines import open_binary
from ftpipe.dataset.peek import glance
from ftpipe.dataset.split import good_lines
from ftpipe.errors import DatasetError, MissingExtraError, StateError

_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    "system": "system",
    "tool": "tool",
}
_ASKED = ("prompt", "question", "instruction", "user", "query", "input", "text")
_ANSWERED = ("completion", "answer", "response", "output", "assistant", "label", "target")
_SYSTEM = ("system", "system_prompt")


class Converted(NamedTuple):
    """What was converted."""

    output: Path
    source: str
    """Name of the format that was read."""
    records: int
    skipped: tuple[int, ...]
    """Records (1-based) that had no question or no answer; the first hundred."""
    skipped_total: int


def convert(path: Path, output: Path, *, system: str = "", columns: tuple[str, str] | None = None) -> Converted:
    """Convert a file to chat JSONL.

    Args:
        path: ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet``.
        output: The new file.
        system: System message to put before each dialogue that has none.
        columns: Names of the question's and the answer's column, where they cannot be guessed.

    Raises:
        DatasetError: No record could be converted.
        MissingExtraError: Parquet without pyarrow.
        UsageError: The file is missing.
        StateError: A file cannot be read or written.
    """
    written, total, source = 0, 0, ""
    skipped: list[int] = []
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("wb") as file:
            for number, record in enumerate(rows_of(path), 1):
                name, messages = dialogue_of(record, columns)
                source = source or name
                if not messages:
                    total += 1
                    skipped += [number] if len(skipped) < 100 else []
                    continue
                if system and messages[0]["role"] != "system":
                    messages.insert(0, {"role": "system", "content": system})
                rest = {key: record[key] for key in ("tools", "parallel_tool_calls") if key in record}
                file.write(orjson.dumps({"messages": messages, **rest}) + b"\n")
                written += 1
    except OSError as exc:
        raise StateError(
            f"{exc.filename or output} cannot be written: {exc.strerror}.", "Check the folder and the disk."
        ) from exc
    if not written:
        output.unlink(missing_ok=True)
        raise DatasetError(
            f"No record of {path.name} has a question and an answer.", "Name the columns: --columns QUESTION,ANSWER"
        )
    return Converted(output, source or "unknown", written, tuple(skipped), total)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, whatever its kind."""
    suffix = path.suffix.lower()
    open_binary(path).close()
    if suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".parquet":
        yield from _parquet_rows(path)
    elif glance(path).layout in ("array", "pretty"):
        try:
            yield from (
                record for record in records_in(path.read_text(encoding="utf-8-sig")) if isinstance(record, dict)
            )
        except UnicodeError as exc:
            raise StateError(f"{path.name} is not UTF-8.", "Save it as UTF-8.") from exc
    else:
        yield from (record for _, _, record in good_lines(path))


def _csv_rows(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(16 * 1024 * 1024)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, delimiter=delimiter):
                yield {key: value for key, value in row.items() if key}
    except (UnicodeError, csv.Error) as exc:
        raise StateError(f"{path.name} cannot be read as CSV: {exc}.", "Save it as UTF-8 with a header line.") from exc


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as exc:
        raise MissingExtraError("Parquet needs the package pyarrow.", "pip install 'ftpipe[parquet]'") from exc
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, ValueError) as exc:
        raise StateError(f"{path.name} cannot be read as Parquet.", "Check the file.") from exc


def dialogue_of(record: dict[str, Any], columns: tuple[str, str] | None) -> tuple[str, list[dict[str, Any]]]:
    """Name of the record's format, and its messages; no messages where question or answer is missing."""
    if columns:
        return "table", _pair(record.get(columns[0]), record.get(columns[1]), "")
    if shape_of(record) == "messages" and isinstance(record.get("messages"), list):
        return "chat", list(record["messages"])
    name = legacy_shape(record)
    if name == "ShareGPT":
        return name, _turns(record)
    system = next((record[key] for key in _SYSTEM if isinstance(record.get(key), str)), "")
    if name == "Alpaca":
        asked = str(record.get("instruction") or "")
        more = str(record.get("input") or "")
        asked = f"{asked}\n\n{more}" if more else asked
        return name, _pair(asked, record.get("output", record.get("response")), system)
    lower = {key.lower().strip(): value for key, value in record.items()}
    question = next((lower[key] for key in _ASKED if lower.get(key)), None)
    answer = next((lower[key] for key in _ANSWERED if lower.get(key)), None)
    return name or "table", _pair(question, answer, system)


def _pair(question: object, answer: object, system: str) -> list[dict[str, Any]]:
    texts = [
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value is not None else ""
        for value in (question, answer)
    ]
    asked = texts[0].removesuffix("\n\n###\n\n").removesuffix("\n\n###").strip()
    answered = texts[1].removesuffix("###").removesuffix("END").strip()
    if not asked or not answered:
        return []
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _turns(record: dict[str, Any]) -> list[dict[str, Any]]:
    listed: Iterable[Any] = record.get("conversations") or record.get("conversation") or ()
    messages = []
    for turn in listed if isinstance(listed, list) else ():
        if not isinstance(turn, dict):
            return []
        role = _SPEAKERS.get(str(turn.get("from") or turn.get("role")).lower())
        text = turn.get("value") if "value" in turn else turn.get("content")
        if role is None or not isinstance(text, str):
            return []
        messages.append({"role": role, "content": text})
    if isinstance(record.get("system"), str) and record["system"] and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": record["system"]})
    roles = [message["role"] for message in messages]
    return messages if "assistant" in roles and "user" in roles else []
