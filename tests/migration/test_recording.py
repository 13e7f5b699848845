"""A recording is read strictly, continued after a kill at any byte, and never mixed with another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.errors import DatasetError, UsageError
from ftpipe.migration import recording
from ftpipe.migration.recording import (
    ExpectedAnswer,
    RecordedPrompt,
    RecordingHeader,
    RecordingSampling,
    RecordingWriter,
    Sample,
    iter_prompts,
    prompt_id,
    read_header,
    read_recording,
)
from ftpipe.records.evaluation import Answer, TokenLogprob, ToolCall

HEADER = RecordingHeader(
    model="ft:gpt-4o-mini-2024-07-18:org::abc",
    base="gpt-4o-mini-2024-07-18",
    provider="openai",
    endpoint="https://api.openai.com/v1",
    sampling=RecordingSampling(samples=1, temperature=0.8, max_tokens=64),
    created_at=1_795_000_000,
)


def prompt(number: int, *, text: str = "fine") -> RecordedPrompt:
    messages = ({"role": "user", "content": f"question {number}"},)
    return RecordedPrompt(
        id=prompt_id(messages),
        origin="held-out",
        source=f"held.jsonl:{number}",
        messages=messages,
        expected=ExpectedAnswer(content="good"),
        samples=(
            Sample(
                content=text,
                finish_reason="stop",
                logprobs=(TokenLogprob(token="fi", logprob=-0.5, alternatives={"fi": -0.5, "go": -1.5}),),
                prompt_tokens=9,
                completion_tokens=1,
                latency_seconds=0.25,
            ),
            Sample(tool_calls=(ToolCall(name="look_up", arguments='{"id": 7}'),), finish_reason="tool_calls"),
        ),
    )


def write(path: Path, numbers: range) -> None:
    writer = RecordingWriter(path, HEADER)
    for number in numbers:
        writer.append(prompt(number))


def test_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "golden.jsonl"
    write(path, range(3))
    read = read_recording(path)
    assert (read.header, read.prompts) == (HEADER, tuple(prompt(number) for number in range(3)))
    assert [item.line for item in map(RecordedPrompt.to_item, read.prompts)] == [0, 1, 2]
    assert read.prompts[0].greedy.to_answer().text == "fine"


def test_sample_keeps_everything_of_an_answer() -> None:
    answer = Answer(
        text="yes",
        tool_calls=(ToolCall(name="f"),),
        finish_reason="stop",
        logprobs=(TokenLogprob(token="yes", logprob=-0.1),),
        prompt_tokens=3,
        completion_tokens=1,
        latency_s=0.5,
    )
    assert Sample.from_answer(answer).to_answer() == answer.model_copy(update={"from_cache": True})


def test_writer_continues_and_appends_a_prompt_once(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    write(path, range(2))
    later = HEADER.model_copy(update={"created_at": HEADER.created_at + 60})
    writer = RecordingWriter(path, later)
    assert writer.header == HEADER
    for number in range(4):
        writer.append(prompt(number))
    writer.append(prompt(3))
    assert [one.source for one in iter_prompts(path)] == [f"held.jsonl:{number}" for number in range(4)]


def test_writer_continues_after_a_kill_at_any_byte(tmp_path: Path) -> None:
    """Cut at each byte of the last line: what was complete stays, the rest is written again, and nothing is twice."""
    path = tmp_path / "golden.jsonl"
    write(path, range(2))
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for size in range(start, len(whole)):
        path.write_bytes(whole[:size])
        if size > start:
            with pytest.raises(DatasetError, match="line 3: it was cut off"):
                read_recording(path)
        writer = RecordingWriter(path, HEADER)
        assert len(writer.ids) == (2 if size == len(whole) - 1 else 1), size
        writer.append(prompt(1))
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"model": "ft:other"}, "has model ft:gpt-4o-mini"),
        ({"endpoint": "https://other.example/v1"}, "has endpoint"),
        ({"sampling": HEADER.sampling.model_copy(update={"temperature": 0.3})}, "has temperature 0.8, not 0.3"),
    ],
)
def test_writer_refuses_a_recording_of_something_else(tmp_path: Path, change: dict[str, object], name: str) -> None:
    path = tmp_path / "golden.jsonl"
    write(path, range(1))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=name):
        RecordingWriter(path, HEADER.model_copy(update=change))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"mine\n", b'{"messages": []}\n', b"no line break", b"[]\nno line break"])
def test_writer_changes_no_other_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"not a recording|it was cut off"):
        RecordingWriter(path, HEADER)
    assert path.read_bytes() == content


def damaged(path: Path, number: int, line: str) -> Path:
    write(path, range(3))
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "Invalid JSON"),
        ("[]", "valid dictionary or object|Input should be an object"),
        ('{"id": "0123456789abcdef"}', "origin"),
        (json.dumps({**json.loads(prompt(1).model_dump_json()), "extra": 1}), "extra: Extra inputs"),
        (json.dumps({**json.loads(prompt(1).model_dump_json()), "samples": []}), "samples: "),
        (json.dumps({**json.loads(prompt(1).model_dump_json()), "origin": "elsewhere"}), "origin: "),
        (json.dumps({**json.loads(prompt(1).model_dump_json()), "id": "0" * 16}), "its id is not that of its messages"),
        (prompt(0).model_dump_json(), "it has the prompt of line 2 again"),
        (prompt(1).model_dump_json().replace("-0.5", "NaN", 1), "logprob"),
        ("[" * 100_000, "Invalid JSON"),
    ],
)
def test_reader_names_a_damaged_line(tmp_path: Path, line: str, reason: str) -> None:
    path = damaged(tmp_path / "golden.jsonl", 3, line)
    with pytest.raises(DatasetError, match=rf"line 3: .*({reason})"):
        read_recording(path)


def test_reader_limits_lines_and_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "golden.jsonl"
    write(path, range(3))
    monkeypatch.setattr(recording, "MAX_PROMPTS", 2)
    with pytest.raises(DatasetError, match="line 4: it has more than 2 prompts"):
        list(iter_prompts(path))
    monkeypatch.setattr(recording, "MAX_LINE_BYTES", 400)
    with pytest.raises(DatasetError, match="line 2: it is longer than 400 bytes"):
        list(iter_prompts(path))


def test_header_is_read_alone_and_other_files_are_named(tmp_path: Path) -> None:
    path = damaged(tmp_path / "golden.jsonl", 3, "damaged")
    assert read_header(path) == HEADER
    with pytest.raises(UsageError, match="there is no file"):
        read_header(tmp_path / "missing.jsonl")
    with pytest.raises(UsageError, match="is a folder"):
        read_header(tmp_path)
    newer = damaged(tmp_path / "newer.jsonl", 1, json.dumps({**HEADER.model_dump(), "format": "ftpipe.recording/2"}))
    with pytest.raises(DatasetError, match=r"not a recording: line 1: format"):
        read_header(newer)


def test_prompt_id_depends_on_messages_and_tools_alone() -> None:
    message = {"role": "user", "content": "hello"}
    assert prompt_id([message]) == prompt_id([{"content": "hello", "role": "user", "weight": 1}])
    assert prompt_id([message]) != prompt_id([message], [{"type": "function"}])
