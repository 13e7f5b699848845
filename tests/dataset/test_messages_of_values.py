"""Messages say which value stands in the data, with its type."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.rules.base import describe_value
from ftpipe.records import Finding
from ftpipe.stages.validate import validate
from tests.dataset.negative_examples import (
    PARAMETERS,
    after_roles,
    call,
    exchange,
    image,
    result,
    with_calls,
    with_parts,
)
from tests.dataset.samples import chats, graded, preference, write

ALIKE: tuple[tuple[Any, str], ...] = (
    (None, "null"),
    (True, "true"),
    (False, "false"),
    (0, "0"),
    (1, "1"),
    (-1.5, "-1.5"),
    (float("nan"), "NaN"),
    ([], "[]"),
    ([1], "[1]"),
    ({}, "{}"),
    ({"a": 1}, '{"a": 1}'),
)
"""Values, each with a string that looks like it."""
ODD_VALUES: tuple[Any, ...] = (*(value for pair in ALIKE for value in pair), "", " ", 10**20, [[]], [None], [""])
PYTHON_WORDS = re.compile(r"\b(?:None|True|False|nan|inf)\b|\{'")
"""How Python writes what JSON writes differently; no sample contains these words."""
LEGACY_CALL = {"role": "assistant", "function_call": {"name": "weather", "arguments": "{}"}}
CHATS: tuple[dict[str, Any], ...] = (
    exchange(weight=1, name="ann", refusal="no"),
    with_calls(call(), after=(result(), {"role": "assistant", "content": "Cold."}), parallel_tool_calls=False),
    {"messages": [*exchange()["messages"], LEGACY_CALL], "functions": [{"name": "weather", "parameters": PARAMETERS}]},
    with_parts({"type": "text", "text": "What is it?"}, image("https://example.org/a.png")),
    after_roles("system"),
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The keys and indices that lead to every value inside a record."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def replaced(record: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The record with another value at one place."""
    new = copy.deepcopy(record)
    at: Any = new
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return new


def findings_by_value(
    folder: Path, records: tuple[dict[str, Any], ...], good: list[dict[str, Any]], values: tuple[Any, ...]
) -> dict[tuple[int, tuple[str | int, ...], int], list[Finding]]:
    """(record, place, index of the value) → the findings of the record with this value at this place."""
    keys = [(n, path, v) for n, record in enumerate(records) for path in places(record) for v in range(len(values))]
    rows: list[Any] = [*good, *(replaced(records[n], path, values[v]) for n, path, v in keys)]
    path = write(folder / "odd.jsonl", rows)
    settings = CheckSettings(max_findings=1_000_000, ignore=("FT7", "FT8", "FT9"), processes=1, engine="pure-python")
    by_line: dict[int | None, list[Finding]] = {}
    for finding in validate(path, target="azure", settings=settings).findings:
        by_line.setdefault(finding.line, []).append(finding)
    return {key: by_line.get(line, []) for line, key in enumerate(keys, len(good) + 1)}


KINDS: tuple[tuple[str, tuple[dict[str, Any], ...], list[dict[str, Any]]], ...] = (
    ("chat", CHATS, chats(12)),
    ("preference", (preference(0),), [preference(n) for n in range(40)]),
    ("graded", (graded(0),), [graded(n) for n in range(12)] * 30),
)


@pytest.mark.parametrize(("records", "good"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_messages_never_write_values_as_python_does(
    records: tuple[dict[str, Any], ...], good: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Any value, at any place of a record."""
    found = findings_by_value(tmp_path, records, good, ODD_VALUES)
    texts = {(f.code, f.message) for findings in found.values() for f in findings}
    assert len({code for code, _ in texts}) > 5
    assert [text for text in sorted(texts) if PYTHON_WORDS.search(text[1])] == []


@pytest.mark.parametrize(("records", "good"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_messages_tell_a_value_from_a_string_that_looks_like_it(
    records: tuple[dict[str, Any], ...], good: list[dict[str, Any]], tmp_path: Path
) -> None:
    """No finding about a place reads the same for ``0`` and ``"0"``, unless its rule does not depend on the value."""
    values = tuple(value for pair in ALIKE for value in pair)
    found = findings_by_value(tmp_path, records, good, values)
    messages: dict[tuple[int, tuple[str | int, ...], str], set[str]] = {}
    for (record, path, _), findings in found.items():
        for finding in findings:
            messages.setdefault((record, path, f"{finding.code} {finding.path}"), set()).add(finding.message)
    alike = []
    for (record, path, index), findings in found.items():
        if index % 2:
            continue
        shown = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
        other = {(f.code, f.message) for f in found[record, path, index + 1] if f.path == shown}
        alike += [
            (f.code, shown, f.message)
            for f in findings
            if f.path == shown
            and (f.code, f.message) in other
            and len(messages[record, path, f"{f.code} {f.path}"]) > 1
        ]
    assert alike == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "the string '0'"),
        ("", "the empty string"),
        (0, "the number 0"),
        (1.5, "the number 1.5"),
        (float("nan"), "NaN"),
        (True, "true"),
        (None, "null"),
        ([], "an empty list"),
        ({"a": None, "b": [True]}, 'the object {"a": null, "b": [true]}'),
        ([[[[[1]]]]], 'the list [[["…"]]]'),
    ],
)
def test_describe_value_names_the_type(value: object, text: str) -> None:
    assert describe_value(value) == text


def test_describe_value_of_a_huge_value_is_short() -> None:
    assert len(describe_value([{"a" * 1000: ["b" * 1000] * 1000}] * 1000)) < 100


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ('"content": NaN', "FT207", "The content is NaN, not a string."),
        ('"content": "x", "weight": "0"', "FT215", "The weight is the string '0'; it must be the number 0 or 1."),
        ('"content": "x", "weight": true', "FT215", "The weight is true; it must be the number 0 or 1."),
        (
            '"tool_calls": [{"id": "a", "type": "function", "function": {"name": "now", "arguments": ""}}]',
            "FT303",
            "The arguments are the empty string, not JSON.",
        ),
        (
            '"tool_calls": [{"id": "a", "type": "function", "function": {"name": "now", "arguments": "null"}}]',
            "FT303",
            "The arguments are JSON for null, not for an object.",
        ),
        ('"tool_calls": "now()"', "FT311", "tool_calls is the string 'now()', not a list."),
        ('"content": "x", "role": 5', "FT205", "Unknown role the number 5."),
    ],
)
def test_validate_says_what_stands_there(fields: str, code: str, message: str, tmp_path: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", FIELDS}]}'.replace("FIELDS", fields)
    path = write(tmp_path / "a.jsonl", [*chats(11), row.encode()])
    assert [f.message for f in validate(path).findings if f.code == code] == [message]


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (json.dumps(MESSAGES), 2),
        (json.dumps(MESSAGES, indent=2), 2),
        (json.dumps(MESSAGES[1]), 1),
        (str(MESSAGES), 2),
        (json.dumps([{"from": "gpt", "value": "Hello"}]), 1),
        (json.dumps([{"content": "Hello", "role": "assistant"}]), 1),
        (json.dumps(MESSAGES) + " What does this mean?", 0),
        ("Read this: " + json.dumps(MESSAGES), 0),
        ('[{"role": "painter", "content": "blue"}]', 0),
        ('{"role": "assistant"}', 0),
        ("[]", 0),
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_validate_reports_messages_written_as_text(role: str, text: str, number: int, tmp_path: Path) -> None:
    contents = {"user": "Hi", "assistant": "Hello"} | {role: text}
    row = {"messages": [{"role": name, "content": content} for name, content in contents.items()]}
    report = validate(write(tmp_path / "a.jsonl", [*chats(11), row]))
    noun = "message" if number == 1 else "messages"
    expected = [f"The {role} message is a text that holds {number} {noun}."] if number else []
    assert [f.message for f in report.findings if f.code == "FT223"] == expected


@pytest.mark.parametrize(("target", "severity"), [("openai", "info"), ("azure", "warning")])
def test_two_answers_in_a_row_are_a_warning_at_azure(target: str, severity: str, tmp_path: Path) -> None:
    """Two questions in a row are a note everywhere."""
    answers = {"messages": [*exchange()["messages"], {"role": "assistant", "content": "And more."}]}
    questions = {"messages": [{"role": "user", "content": "Hello."}, *exchange()["messages"]]}
    report = validate(write(tmp_path / "a.jsonl", [*chats(11), answers, questions]), target=target)
    found = [(f.line, f.severity.value) for f in report.findings if f.code == "FT213"]
    assert found == [(12, severity), (13, "info")]


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        (exchange() | {"accepted": False}, "FT110", "`ftpipe convert FILE` keeps its meaning"),
        (exchange() | {"tools": "[]"}, "FT301", "`ftpipe convert FILE`"),
        (exchange()["messages"], "FT102", "`ftpipe convert FILE`"),
        (exchange(feedback="negative"), "FT214", "write weight 0 instead"),
        (
            with_parts({"type": "image_url", "image_url": "https://example.org/a.png"}),
            "FT407",
            "image_url is the string",
        ),
    ],
)
def test_findings_name_what_helps(row: Any, code: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", [*chats(11), row])
    finding = next(finding for finding in validate(path).findings if finding.code == code)
    assert words in f"{finding.message} {finding.hint}"


def test_tools_of_a_pair_that_are_no_list_are_found_in_its_input(tmp_path: Path) -> None:
    pair = {
        "input": {"messages": [{"role": "user", "content": "Hello."}], "tools": 5},
        "preferred_output": [{"role": "assistant", "content": "Good morning."}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    findings = validate(write(tmp_path / "data.jsonl", [pair] * 11)).findings
    assert {finding.path for finding in findings if finding.code == "FT301"} == {"input.tools"}


@pytest.mark.parametrize(("target", "expected"), [("local", ["FT207"]), ("openai", [])])
def test_audio_is_refused_where_the_trainer_cannot_read_it(target: str, expected: list[str], tmp_path: Path) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    path = write(tmp_path / "data.jsonl", [*chats(11), with_parts({"type": "text", "text": "What?"}, audio)])
    assert [f.code for f in validate(path, target=target).findings if f.severity == "error"] == expected
