"""Prefilters: no line on which a rule would fire is passed over, by Hyperscan or by byte searches."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.json_line import Line
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import (
    ALL_MARKS,
    ANSWER_TRAITS,
    DISPUTED_CHARACTERS,
    answer_traits,
    plain_dialogue_traits,
)
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.scan import prefilter
from ftpipe.dataset.scan.byte_search import Marks, find_marks
from ftpipe.dataset.scan.plan import ScanPlan
from ftpipe.dataset.scan.scanner import Scanner, line_offsets
from ftpipe.tokenization import patterns

FINDERS = [find_marks] + ([prefilter.Prefilter().find] if prefilter.is_available() else [])
PIECES = (
    "jane.doe@mail.acme.org", "é@acme.org", "\\x@acme.io", "\n@property", "a@b", "+49 30 901820-15", "(415) 234-9876",
    "415-234-9876", "415.234.9876", "078-05-1120", "4012 8888 8888 1881", "4012888888881881", "378282246310005",
    "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "AKIAQ2W3E4R5T6Y7U2I3", "sk-proj-aB3dE5gH7jK9mN1pQ3sT5",
    "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8", "glpat-a1B2c3D4e5F6g7H8i9J0", "xoxb-1a2b3c4d5e6f7g8h9i0j1k",
    "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q", "hf_qWzXsCeRfVtGyHuJmKoLpQaZxSwEdCvF", "-----BEGIN RSA PRIVATE KEY-----",
    "https://jo:s3cr3tPw@db.acme.org/x", "ftp://jo:s3cr3tPw@öst.acme.org",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjMifQ.s5fdJ0eCbuHYgtLZfJmfwLlAzV",
    "TODO", "todo", "XXXXX", "Lorem Ipsum", "{{ name }}", "[Name]", "row[name]", "<insert your city>", "[YOUR TOWN]",
    "<|endoftext|>", "<|im_start|>", "cafÃ©", "â€™", "Â«", "ï»¿", "a\u200bb", "\u202egnp", "\u2028", "\x85", "\x1b[31m",
    "“quoted”", "日本", "😀", "plain words", '"', "\\", "/",
)  # fmt: skip


def violations(scanner: Scanner, record: dict[str, object], marks: set[str]) -> list[tuple[str, str, str]]:
    """Violations of the rules about texts on a line with these marks."""
    line = Line(1, 0, b"")
    line.record = record
    row = DatasetRecord(line, record, "chat", scanner.file)
    row.marks = marks
    rules = [rule for rule in scanner.rules_for("chat", 0, marks) if rule.mark]
    return [(rule.code, violation.path, violation.message) for rule in rules for violation in rule.check(row)]


PLAN = ScanPlan(
    Path("x.jsonl"),
    FileContext("x.jsonl", "openai", None, "", "chat", today=dt.date(2026, 11, 24)),
    encoding="o200k_base",
)


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    """One under the strictest target."""
    return Scanner(PLAN)


@pytest.mark.parametrize("find", FINDERS)
@given(
    lines=st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), min_size=1, max_size=6),
    joint=st.sampled_from(["", " ", "\n", ": "]),
    ascii_only=st.booleans(),
)
def test_find_marks_marks_every_line_that_rules_report(
    scanner: Scanner,
    find: Callable[[bytes, list[int]], Marks],
    lines: list[list[str]],
    joint: str,
    ascii_only: bool,
) -> None:
    """The rules find the same on the marked lines as when they look at every line, however the JSON is escaped."""
    records: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": joint.join(pieces)}]}
        for pieces in lines
    ]
    raws = [json.dumps(record, ensure_ascii=ascii_only).encode() for record in records]
    marks = find(b"\n".join(raws) + b"\n", line_offsets(raws))
    for index, record in enumerate(records):
        assert violations(scanner, record, marks.get(index, set())) == violations(scanner, record, {ALL_MARKS})


@pytest.mark.skipif(not prefilter.is_available(), reason="the package hyperscan is not installed")
def test_prefilter_marks_disputed_characters() -> None:
    """And the usual ones of the world's scripts, and emoji, do not."""
    find = prefilter.Prefilter().find
    disputed = [chr(code) for code in range(0x110000) if patterns.DISPUTED.match(chr(code))]
    lines = [f'{{"a": "x{char}y"}}'.encode() for char in disputed]
    marks = find(b"\n".join(lines), line_offsets(lines))
    assert len(disputed) > 4_000
    assert all(DISPUTED_CHARACTERS in marks.get(index, ()) for index in range(len(lines)))
    lines = [json.dumps({"a": f"x{char}y"}).encode() for char in disputed]
    marks = find(b"\n".join(lines), line_offsets(lines))
    assert all(DISPUTED_CHARACTERS in marks.get(index, ()) for index in range(len(lines)))
    usual = ['{"a": "Grüße, café — “naïve”; 日本語, 한국어, العربية, हिन्दी, ไทย, Ελλάδα, Привет 😀🇩🇪👩‍👩‍👧"}'.encode()]
    assert DISPUTED_CHARACTERS not in find(usual[0], line_offsets(usual)).get(0, ())


ANSWERS = (
    "Yes.", "the", " And", "to The", "is", "it,", "a;", "```", "```py\nx\n```", "[1, 2", "{", "}", " ", "\n", "\u3000",
    "…", "[truncated]", "... (truncated)", "finish_reason: 'length'", "FINISH_REASON=length", "<truncated>", "<think>",
    "ok", "I'm sorry, but as an AI", "I cannot help", "Sorry, I can't assist", "As a language model", "Well,",
    "as an AI language model", "I am ChatGPT", "trained by OpenAI", "I'm Claude", "word " * 40, "x" * 90, "</think>",
    "same words again and again. " * 30, "I CAN’T COMPLY", "i am unable to provide", "As a large AI",
    "as an artificial intelligence AI",
)  # fmt: skip


@given(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=4), st.sampled_from(["", " ", "\n"]))
def test_answer_traits_cover_every_answer_that_rules_report(pieces: list[str], joint: str) -> None:
    """The cheap look at every answer never hides one from the rules that read answers."""
    answer = joint.join(pieces)
    if not answer.strip():
        return
    marks = answer_traits(answer)
    record: dict[str, object] = {
        "messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": answer}]
    }
    line = Line(1, 0, b"")
    line.record = record
    row = DatasetRecord(line, record, "chat", Scanner(PLAN).file)
    readers = [rule for rule in all_rules() if rule.when & ANSWER_TRAITS and rule.scope == "row"]
    assert len(readers) > 4
    assert [rule.code for rule in readers if list(rule.check(row)) and not rule.when & marks] == []


@pytest.mark.skipif(not prefilter.is_available(), reason="the package hyperscan is not installed")
@given(
    st.lists(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=4), min_size=1, max_size=4),
    st.sampled_from(["", " ", "\n"]),
    st.booleans(),
)
def test_auxiliary_marks_do_not_change_traits(texts: list[list[str]], joint: str, ascii_only: bool) -> None:
    """What the prefilter saw on a line stands for searching its answers, however the JSON is escaped."""
    records = [
        {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": joint.join(pieces)}]}
        for pieces in texts
    ]
    raws = [json.dumps(record, ensure_ascii=ascii_only).encode().replace(b"<", b"\\u003c") for record in records]
    auxiliary = prefilter.pop_auxiliary_marks(prefilter.compiled().find(b"\n".join(raws), line_offsets(raws)))
    for index, record in enumerate(records):
        assert plain_dialogue_traits(record, auxiliary.get(index, ())) == plain_dialogue_traits(record)


@pytest.mark.parametrize("piece", PIECES[:25])
def test_prefilter_examples_are_reported_by_rules(scanner: Scanner, piece: str) -> None:
    """So that the property above is not empty: most of what it is made of is found by some rule."""
    harmless = {"a@b", "\n@property", "é@acme.org"}
    record: dict[str, object] = {"messages": [{"role": "user", "content": f"It is {piece} there."}]}
    assert bool(violations(scanner, record, {ALL_MARKS})) is (piece not in harmless)
