"""Hostile input: any bytes lead to findings, never to a traceback, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.fixes import fix_file
from ftpipe.dataset.reader import read_blocks
from ftpipe.stages.count import count
from ftpipe.stages.validate import validate
from tests.dataset.samples import chats, write
from tests.examples import examples

RELAXED = settings(max_examples=examples(20, 60), suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
API_WORDS = st.sampled_from(
    ["messages", "role", "content", "tools", "tool_calls", "function", "name", "arguments", "weight", "input", "id",
     "preferred_output", "non_preferred_output", "image_url", "url", "type", "text", "user", "assistant", "system",
     "tool"]
)  # fmt: skip
API_LIKE_JSON = st.recursive(
    API_WORDS | st.text(max_size=20) | st.none() | st.integers(-2, 2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(API_WORDS, inner, max_size=5),
    max_leaves=25,
)


def check(path: Path) -> None:
    """Validate, count and fix a file."""
    for target in ("openai", "local"):
        count(validate(path, target=target), model="gpt-4.1-mini")
    fix_file(path, path.with_name("fixed.jsonl"), unsafe=True)


@RELAXED
@given(data=st.binary(max_size=300))
def test_validate_random_bytes_never_raises(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "random.jsonl"
    path.write_bytes(data)
    validate(path)


@RELAXED
@given(
    values=st.lists(JSON | API_LIKE_JSON, max_size=5),
    method=st.sampled_from([None, "dpo", "reinforcement", "supervised"]),
)
def test_validate_random_json_never_raises(values: list[Any], method: str | None, tmp_path: Path) -> None:
    """Any JSON values, also with API keys in the wrong places."""
    path = tmp_path / "random.jsonl"
    path.write_bytes(b"\n".join(json.dumps(value).encode() for value in values))
    validate(path, method=method)


@RELAXED
@given(
    record=st.fixed_dictionaries(
        {"messages": API_LIKE_JSON},
        optional={"tools": API_LIKE_JSON, "input": API_LIKE_JSON, "preferred_output": API_LIKE_JSON},
    )
)
def test_validate_count_and_fix_never_raise_on_odd_records(record: dict[str, Any], tmp_path: Path) -> None:
    check(write(tmp_path / "odd.jsonl", [*chats(3), record]))


@RELAXED
@given(data=st.binary(max_size=400), block=st.integers(1, 64), cut=st.integers(0, 400))
def test_read_blocks_covers_every_line_once(data: bytes, block: int, cut: int, tmp_path: Path) -> None:
    """However the file is divided, the lines are those of the bytes split at newlines."""
    path = tmp_path / "cut.jsonl"
    path.write_bytes(data)
    ranges = [(0, None)] if not cut else [(0, cut), (cut, None)]
    pieces = [b for start, end in ranges for b in read_blocks(path, start, end, max_line_bytes=1000, block_bytes=block)]
    assert b"".join(piece.data for piece in pieces) == data
    assert all(piece.data.endswith(b"\n") for piece in pieces[:-1])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "FT107"),
        (b'{"messages":' + b"[" * 100_000, "FT107"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "FT107"),
        (b'{"messages":[{"role":"user","content":"\\ud83d"}]}', "FT106"),
        (b'{"messages":[{"role":"user","role":"user","content":"x"},{"role":"assistant","content":"y"}]}', "FT104"),
        (b'{"messages" : [{"role":"user","content":"x"},{"role":"assistant","content":"y"}],"messages":1}', "FT104"),
        (
            b'{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y","weight":-Infinity}]}',
            "FT105",
        ),
        (b'{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y","weight":1e999}]}', "FT105"),
        (b'{"messages":[{"role":"user","content":"x"}],"n":123456789012345678901234567890}', "FT105"),
        (b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}', "FT004"),
        (b'{"messages":[{"role":"user","content":"a\\u0000b"},{"role":"assistant","content":"y"}]}', "FT008"),
        (b"9" * 5000, "FT105"),
        (b'{"a":' + b"9" * 5000 + b"}", "FT105"),
        (b'{"messages":[{"role":"user","content":"' + b"x" * 3_000_000, "FT101"),
        (b'{"\\\\":1,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}],"\\\\":2}', "FT104"),
    ],
)
def test_validate_hostile_line_is_one_finding(line: bytes, code: str, tmp_path: Path) -> None:
    """The lines after it are read."""
    report = validate(write(tmp_path / "bad.jsonl", [*chats(5), line, *chats(12)[5:], {"messages": []}]))
    assert (code, 6) in [(f.code, f.line) for f in report.findings]
    assert ("FT202", 14) in [(f.code, f.line) for f in report.findings]


def test_validate_skips_100_mb_line_in_bounded_memory(tmp_path: Path) -> None:
    """It is one finding, and less than 66 MB are in memory at any time."""
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"messages":"')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"messages": []}\n')
    tracemalloc.start()
    report = validate(path, settings=CheckSettings(processes=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(f.code, f.line) for f in report.findings if f.line] == [("FT010", 1), ("FT202", 2)]
    assert peak < 66_000_000


def test_validate_breaks_lines_only_at_newlines(tmp_path: Path) -> None:
    """U+2028, U+0085, vertical tab and form feed inside strings do not change the line numbers."""
    row = chats(1)[0]
    row["messages"][0]["content"] = "a\u2028b\u0085c"
    report = validate(write(tmp_path / "odd.jsonl", [row, {"messages": []}]))
    assert [(f.code, f.line) for f in report.findings if f.line] == [("FT012", 1), ("FT202", 2)]


def test_validate_in_two_processes_equals_one_process(tmp_path: Path) -> None:
    """The parts are merged in order, with the correct line numbers."""
    rows: list[dict[str, Any] | bytes] = []
    for index, row in enumerate(chats(12_000)):
        row["messages"][1]["content"] += f" Reference {index}: " + "and so on, " * 60
        rows.append(b"{" if index % 3_000 == 7 else row)
    path = write(tmp_path / "large.jsonl", rows)
    assert path.stat().st_size > 8_000_000
    one = validate(path, settings=CheckSettings(processes=1, engine="tiktoken"))
    two = validate(path, settings=CheckSettings(processes=2, engine="tiktoken"))
    assert (one.findings, one.summary, one.tokens) == (two.findings, two.summary, two.tokens)
    assert [f.line for f in one.findings if f.code == "FT101"] == [8, 3_008, 6_008, 9_008]
