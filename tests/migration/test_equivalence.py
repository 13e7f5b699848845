"""Whether the new model is as good: on prompts that nobody was trained on, paired, with a gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import NotFoundError, UsageError
from ftpipe.evaluation.request_runner import RequestRunner
from ftpipe.evaluation.response_cache import ResponseCache
from ftpipe.migration.equivalence import ComparisonSet, Contender, collect_prompts, compare_models
from ftpipe.migration.recording import (
    ExpectedAnswer,
    RecordedPrompt,
    Recording,
    RecordingHeader,
    RecordingSampling,
    Sample,
    prompt_id,
)
from ftpipe.records.evaluation import Answer, Arm, Evaluation
from ftpipe.records.migration import GateComparison
from tests.dataset.negative_examples import exchange
from tests.dataset.samples import write

OLD, NEW = Arm(name="old", model="old"), Arm(name="new", model="new")
LABELS = ("late", "lost", "fine")


def question(number: int) -> str:
    """A prompt; its number decides its label."""
    return f"Where is parcel {number}?"


def label(number: int) -> str:
    """The correct answer."""
    return LABELS[number % 3]


class ScriptedModel:
    """Answers each question correctly, except for those with these numbers."""

    def __init__(self, *wrong: int, error: Exception | None = None) -> None:
        self.wrong = set(wrong)
        self.error = error
        self.requests = 0

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **_options: object) -> Answer:
        """One answer."""
        self.requests += 1
        if self.error is not None:
            raise self.error
        number = int("".join(filter(str.isdigit, str(messages[-1]["content"]))))
        return Answer(text="other" if number in self.wrong else label(number), prompt_tokens=5, completion_tokens=1)


def contender(arm: Arm, model: ScriptedModel) -> Contender:
    """A model with an empty cache."""
    return Contender(arm, RequestRunner(model, ResponseCache(), concurrency=2, sleep=lambda _seconds: None))


def held_out(folder: Path, numbers: range) -> Path:
    """Prompts with correct answers."""
    return write(folder / "held-out.jsonl", [exchange(question(n), label(n)) for n in numbers])


def recording(
    numbers: range, *, wrong: tuple[int, ...] = (), samples: int = 0, seen: bool = False, expected: bool = True
) -> Recording:
    """Answers of the old model."""
    prompts = []
    for number in numbers:
        messages = ({"role": "user", "content": question(number)},)
        answers = [Sample(content="other" if number in wrong else label(number))]
        answers += [Sample(content=label(number) if index % 2 else "other") for index in range(samples)]
        prompts.append(
            RecordedPrompt(
                id=prompt_id(messages),
                origin="training" if seen else "held-out",
                seen=seen,
                messages=messages,
                expected=ExpectedAnswer(content=label(number)) if expected else None,
                samples=tuple(answers),
            )
        )
    header = RecordingHeader(
        model="old", provider="openai", endpoint="e", sampling=RecordingSampling(samples=samples), created_at=1
    )
    return Recording(header=header, prompts=tuple(prompts))


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Questions 900 to 909."""
    return write(tmp_path / "train.jsonl", [exchange(question(n), label(n)) for n in range(900, 910)])


def run(
    prompts: ComparisonSet, new: ScriptedModel, old: ScriptedModel | None = None, *, margin: float = 0.05
) -> list[GateComparison]:
    """Compare, and return the gates."""
    return [gate for _, gate in evaluate(prompts, new, old, margin=margin)]


def evaluate(
    prompts: ComparisonSet, new: ScriptedModel, old: ScriptedModel | None = None, *, margin: float = 0.05
) -> list[tuple[Evaluation, GateComparison]]:
    """Compare the models."""
    return compare_models(
        prompts,
        old=contender(OLD, old) if old else None,
        old_arm=OLD,
        new=contender(NEW, new),
        margin=margin,
        clock=lambda: 1.0,
    )


def test_equal_models_pass_with_enough_prompts(tmp_path: Path, training: Path) -> None:
    prompts = collect_prompts(training=training, held_out=held_out(tmp_path, range(200)))
    [gate] = run(prompts, ScriptedModel(), ScriptedModel())
    assert (gate.kind, gate.items, gate.metric) == ("expected answers", 200, "normalized")
    assert (gate.old_score, gate.new_score, gate.difference) == (1.0, 1.0, 0.0)
    assert gate.gate.passed
    assert gate.low is not None and -0.05 <= gate.low <= 0


def test_few_prompts_are_no_evidence_even_if_all_are_right(tmp_path: Path, training: Path) -> None:
    """The interval of 20 equal answers is wider than five points; nine prompts are never enough."""
    for number, why in ((20, "at least"), (9, "too few for a gate")):
        prompts = collect_prompts(training=training, held_out=held_out(tmp_path, range(number)))
        [gate] = run(prompts, ScriptedModel(), ScriptedModel(), margin=0.05 if number == 20 else 0.9)
        assert not gate.gate.passed
        assert why in gate.gate.explanation


def test_worse_model_fails_and_a_larger_margin_allows_it(tmp_path: Path, training: Path) -> None:
    prompts = collect_prompts(training=training, held_out=held_out(tmp_path, range(200)))
    wrong = range(0, 200, 10)
    assert [
        run(prompts, ScriptedModel(*wrong), ScriptedModel(), margin=margin)[0].gate.passed for margin in (0.05, 0.2)
    ] == [
        False,
        True,
    ]


def test_recorded_answers_are_not_asked_again(tmp_path: Path, training: Path) -> None:
    old, new = ScriptedModel(), ScriptedModel()
    prompts = collect_prompts(
        training=training, held_out=held_out(tmp_path, range(100)), recording=recording(range(90), wrong=(3,))
    )
    assert len(prompts.missing) == 10
    [gate] = run(prompts, new, old)
    assert (old.requests, new.requests) == (10, 100)
    assert gate.old_score == pytest.approx(0.99)


def test_recording_alone_is_enough(training: Path) -> None:
    """The old model is not needed any more."""
    prompts = collect_prompts(training=training, recording=recording(range(150)))
    [gate] = run(prompts, ScriptedModel())
    assert (gate.kind, gate.items, gate.gate.passed) == ("expected answers", 150, True)


def test_model_that_is_gone_is_left_out_and_the_note_says_so(tmp_path: Path, training: Path) -> None:
    prompts = collect_prompts(
        training=training, held_out=held_out(tmp_path, range(100)), recording=recording(range(60))
    )
    [gate] = run(prompts, ScriptedModel(), ScriptedModel(error=NotFoundError("no model", "")))
    assert gate.items == 60
    assert "40 prompts left out, because the old model has no recorded answer" in gate.note


def test_prompts_of_training_data_are_left_out(tmp_path: Path, training: Path) -> None:
    """Those in the new training file, and those that the old model has seen."""
    prompts = collect_prompts(
        training=training, held_out=held_out(tmp_path, range(800, 910)), recording=recording(range(800, 810), seen=True)
    )
    assert (len(prompts.items), prompts.left_out) == (90, 20)
    [gate] = run(prompts, ScriptedModel(), ScriptedModel())
    assert "20 prompts of training data left out" in gate.note


def test_nothing_left_to_compare_is_an_error(tmp_path: Path, training: Path) -> None:
    with pytest.raises(UsageError, match="no prompt is left to compare") as error:
        collect_prompts(training=training, held_out=held_out(tmp_path, range(900, 905)))
    assert "--held-out" in error.value.hint


@pytest.mark.parametrize(("samples", "old_score"), [(4, 0.5), (0, 1.0)])
def test_agreement_is_measured_against_the_old_models_own(training: Path, samples: int, old_score: float) -> None:
    """Half of its samples differ from its greedy answer; without samples it counts as one that never differs."""
    prompts = collect_prompts(training=training, recording=recording(range(120), samples=samples, expected=False))
    [gate] = run(prompts, ScriptedModel(*range(0, 120, 4)))
    assert (gate.kind, gate.items) == ("recorded answers", 120)
    assert gate.old_score == pytest.approx(old_score)
    assert gate.new_score == pytest.approx(0.75)
    assert gate.gate.passed == (samples > 0)
    assert ("one answer per prompt" in gate.note) == (samples == 0)


def test_both_questions_are_answered_from_one_recording(tmp_path: Path, training: Path) -> None:
    prompts = collect_prompts(
        training=training, held_out=held_out(tmp_path, range(40)), recording=recording(range(80), expected=False)
    )
    results = evaluate(prompts, ScriptedModel())
    assert [(gate.kind, gate.items) for _, gate in results] == [("expected answers", 40), ("recorded answers", 40)]
    assert len({evaluation.id for evaluation, _ in results}) == 2
    assert json.loads(results[0][0].model_dump_json())["arms"][1]["arm"]["name"] == "new"
