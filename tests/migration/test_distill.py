"""A training set of recorded answers: nothing held out, no bad answer and no duplicate, and each row named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.duplicates.near import is_available
from ftpipe.errors import DatasetError, UsageError
from ftpipe.migration.distill import DistillOptions, RowOrigin, distill, origins_path
from ftpipe.migration.recording import (
    ExpectedAnswer,
    Origin,
    RecordedPrompt,
    RecordingHeader,
    RecordingSampling,
    RecordingWriter,
    Sample,
    prompt_id,
)
from ftpipe.records.evaluation import ToolCall
from ftpipe.stages.validate import validate
from tests.cli.cli_runner import chat_file
from tests.migration.conftest import AccountUser

SYSTEM = {"role": "system", "content": "You sort the messages of customers of a shop into one of three short labels."}
NO_NEAR = DistillOptions(near_duplicates=False)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_price",
        "parameters": {"type": "object", "properties": {"plan": {"type": "integer"}}, "required": ["plan"]},
    },
}
Record = Callable[..., Path]


def prompt(
    text: str, *answers: str | Sample, origin: Origin = "log", expected: str | None = None, tools: Any = ()
) -> RecordedPrompt:
    messages = (SYSTEM, {"role": "user", "content": text})
    samples = [one if isinstance(one, Sample) else Sample(content=one, finish_reason="stop") for one in answers]
    return RecordedPrompt(
        id=prompt_id(messages, tools),
        origin=origin,
        seen=origin == "training",
        source=f"calls.jsonl:{len(text)}",
        messages=messages,
        tools=tools,
        expected=ExpectedAnswer(content=expected) if expected is not None else None,
        samples=tuple(samples),
    )


def write(path: Path, *prompts: RecordedPrompt, model: str = "ft:old") -> Path:
    header = RecordingHeader(
        model=model,
        provider="openai",
        endpoint="https://api.openai.com/v1",
        sampling=RecordingSampling(samples=len(prompts[0].samples) - 1),
        created_at=1_795_000_000,
    )
    writer = RecordingWriter(path, header)
    for one in prompts:
        writer.append(one)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers_of(path: Path) -> list[str]:
    return [row["messages"][-1].get("content") for row in rows_of(path)]


def test_distill_writes_rows_and_their_origins(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", prompt("one", "billing"), prompt("two", "delivery", origin="training"))
    second = write(tmp_path / "b.jsonl", prompt("two", "other"), prompt("three", "returns"), model="ft:other")
    result = distill([first, second], tmp_path / "train.jsonl", NO_NEAR)
    assert answers_of(result.output) == ["billing", "delivery", "returns"]
    assert (result.rows, result.prompts, result.dropped) == (3, 4, {"prompt of another row": 1})
    origins = [RowOrigin.model_validate(row) for row in rows_of(origins_path(result.output))]
    assert [(one.line, one.origin, one.seen, one.model, one.recording) for one in origins] == [
        (1, "log", False, "ft:old", "a.jsonl"),
        (2, "training", True, "ft:old", "a.jsonl"),
        (3, "log", False, "ft:other", "b.jsonl"),
    ]
    assert validate(result.output, target="openai", method="supervised").summary.counts.keys() <= {"FT112", "FT113"}


def test_distill_never_learns_held_out_prompts_unless_told(tmp_path: Path) -> None:
    """Neither as such, nor if a log has the same prompt, nor those of a test file."""
    held = write(tmp_path / "held.jsonl", prompt("one", "billing", origin="held-out", expected="billing"))
    log = write(tmp_path / "log.jsonl", prompt("one", "billing"), prompt("two", "returns"), prompt("three", "other"))
    test_file = tmp_path / "test.jsonl"
    row = {"messages": [SYSTEM, {"role": "user", "content": "two"}, {"role": "assistant", "content": "x"}]}
    test_file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    options = DistillOptions(near_duplicates=False, holdouts=(test_file,))
    result = distill([log, held], tmp_path / "train.jsonl", options)
    assert [row["messages"][1]["content"] for row in rows_of(result.output)] == ["three"]
    assert result.dropped == {"held-out prompt": 3}
    everything = distill([held, log], tmp_path / "all.jsonl", DistillOptions(near_duplicates=False, has_held_out=True))
    assert everything.by_origin == {"held-out": 1, "log": 2}
    with pytest.raises(DatasetError, match="no row is left of 1 prompts: held-out prompt"):
        distill([held], tmp_path / "none.jsonl", NO_NEAR)
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample(error="too long"), "the endpoint refused the prompt"),
        (Sample(content="half an ans", finish_reason="length"), "the answer was cut off"),
        (Sample(content="I cannot help", finish_reason="refusal"), "the model refused to answer"),
        (Sample(content="", finish_reason="content_filter"), "the model refused to answer"),
        (Sample(content="  ", finish_reason="stop"), "the answer is empty"),
    ],
)
def test_distill_drops_bad_answers_by_reason(tmp_path: Path, sample: Sample, reason: str) -> None:
    recording = write(tmp_path / "a.jsonl", prompt("one", sample), prompt("two", "returns"))
    result = distill([recording], tmp_path / "train.jsonl", NO_NEAR)
    assert (answers_of(result.output), result.dropped) == (["returns"], {reason: 1})
    assert result.examples == (f"calls.jsonl:3: {reason}",)


def test_distill_takes_the_answer_that_samples_agree_on(tmp_path: Path) -> None:
    recording = write(
        tmp_path / "a.jsonl",
        prompt("one", "Billing", "billing.", "returns", "billing"),
        prompt("two", "billing", "returns", "returns", '"Returns"'),
        prompt("three", "billing", "returns", "other", "delivery"),
        prompt("four", '{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"a": 1}', "x"),
        prompt("five", Sample(content="returns", finish_reason="length"), "returns", "returns", "other"),
    )
    options = DistillOptions(agreement=0.5, near_duplicates=False)
    result = distill([recording], tmp_path / "train.jsonl", options)
    assert answers_of(result.output) == ["Billing", "returns", '{"a": 1, "b": 2}', "returns"]
    origins = [RowOrigin.model_validate(row) for row in rows_of(result.origins)]
    assert [(one.sample, one.agreement) for one in origins] == [(0, 0.75), (1, 0.75), (0, 0.5), (1, 0.5)]
    assert result.dropped == {"fewer than 50% of the answers agree": 1}
    alone = write(tmp_path / "alone.jsonl", prompt("one", "billing"))
    with pytest.raises(UsageError, match="one answer to each prompt"):
        distill([alone], tmp_path / "other.jsonl", options)


def test_distill_compares_tool_calls_by_value(tmp_path: Path) -> None:
    calls = [Sample(tool_calls=(ToolCall(name="get_price", arguments=text),)) for text in ('{"plan": 1}', '{"plan":1}')]
    wrong = Sample(tool_calls=(ToolCall(name="get_price", arguments='{"plan": 2}'),))
    recording = write(tmp_path / "a.jsonl", prompt("price", *calls, wrong, tools=(TOOL,)))
    result = distill([recording], tmp_path / "train.jsonl", DistillOptions(agreement=0.6, near_duplicates=False))
    (row,) = rows_of(result.output)
    assert row["tools"] == [TOOL]
    assert row["messages"][-1]["tool_calls"][0]["function"] == {"name": "get_price", "arguments": '{"plan": 1}'}
    assert validate(result.output, target="openai", method="supervised").summary.counts.keys() <= {"FT112", "FT113"}


def test_distill_keeps_answers_that_a_grader_accepts(tmp_path: Path) -> None:
    grader = {
        "type": "string_check",
        "name": "label",
        "input": "{{sample.output_text}}",
        "reference": "{{item.expected}}",
        "operation": "eq",
    }
    recording = write(
        tmp_path / "a.jsonl",
        prompt("one", "billing", origin="training", expected="billing"),
        prompt("two", "billing", origin="training", expected="returns"),
    )
    result = distill([recording], tmp_path / "train.jsonl", DistillOptions(grader=grader, near_duplicates=False))
    assert answers_of(result.output) == ["billing"]
    assert result.dropped == {"the grader's score is below 1": 1}
    assert rows_of(result.origins)[0]["score"] == 1.0


def test_distill_drops_rows_that_the_target_refuses(tmp_path: Path) -> None:
    """A call of a tool that is not defined, found by the checks of ``prepare``."""
    call = Sample(tool_calls=(ToolCall(name="unknown_tool", arguments="{}"),))
    recording = write(tmp_path / "a.jsonl", prompt("one", call, tools=(TOOL,)), prompt("two", "returns"))
    result = distill([recording], tmp_path / "train.jsonl", NO_NEAR)
    assert answers_of(result.output) == ["returns"]
    ((reason, number),) = result.dropped.items()
    assert reason.startswith("FT")
    assert number == 1
    assert not [
        one for one in validate(result.output, target="openai").findings if one.severity == "error" and one.line
    ]


@pytest.mark.skipif(not is_available(), reason="the package rensa is not installed")
def test_distill_drops_near_duplicates_and_near_held_out_prompts(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(60)]
    near = " ".join([*words[:-1], "changed"])
    other = " ".join(f"term{number}" for number in range(60))
    recording = write(
        tmp_path / "a.jsonl",
        prompt(" ".join(words), "billing"),
        prompt(near, "billing"),
        prompt(other, "returns"),
        prompt("short question", "other"),
        prompt("short quest", "other"),
    )
    result = distill([recording], tmp_path / "train.jsonl")
    assert (result.rows, result.dropped) == (4, {"nearly the prompt of another row": 1})
    held = write(tmp_path / "held.jsonl", prompt(f"{other} more", "returns", origin="held-out"))
    result = distill([recording, held], tmp_path / "again.jsonl")
    assert result.dropped == {
        "held-out prompt": 1,
        "nearly the prompt of another row": 1,
        "nearly a held-out prompt": 1,
    }


def test_distill_overwrites_nothing(tmp_path: Path) -> None:
    recording = write(tmp_path / "a.jsonl", prompt("one", "billing"))
    output = tmp_path / "train.jsonl"
    origins_path(output).write_text("mine")
    with pytest.raises(UsageError, match=r"train\.origins\.jsonl exists"):
        distill([recording], output, NO_NEAR)
    with pytest.raises(UsageError, match="input of this command"):
        distill([recording], recording, NO_NEAR, force=True)
    assert (origins_path(output).read_text(), output.exists()) == ("mine", False)
    assert distill([recording], output, NO_NEAR, force=True).rows == 1


def test_distill_command_reports_what_was_dropped_and_prepare_accepts_the_rows(user: AccountUser) -> None:
    prompts = [
        prompt(f"question {number} about an order", "billing" if number % 3 else "returns") for number in range(12)
    ]
    write(Path("golden.jsonl"), *prompts, prompt("bad \x1b[31m", Sample(error="no \x1b[31m")))
    ran = user.run("distill", "golden.jsonl", "--output", "train.jsonl", "--provider", "openai")
    assert ran.code == 0, ran.err
    assert "12 rows of 13 prompts (12 log)" in ran.out
    assert "1 × the endpoint refused the prompt" in ran.err
    assert "\x1b" not in ran.out + ran.err
    assert user.run("prepare", "train.jsonl", "--provider", "openai").code == 0
    assert user.run("distill", "golden.jsonl", "--output", "train.jsonl").code == 2
    assert user.run("distill", str(chat_file("chat.jsonl")), "--output", "new.jsonl").code == 1
    assert user.run("distill", "golden.jsonl", "--output", "new.jsonl", "--min-score", "1").code == 2
    document = user.run("distill", "golden.jsonl", "--output", "new.jsonl", "--json").document
    assert (document["distilled"]["rows"], document["distilled"]["dropped"]) == (
        12, {"the endpoint refused the prompt": 1}
    )  # fmt: skip
