"""The stage asks every arm the same, scores, compares, judges and gates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import RequestRefusedError, UsageError
from ftpipe.evaluation.evaluate import evaluate, read_items
from ftpipe.evaluation.request_runner import RequestRunner
from ftpipe.evaluation.response_cache import ResponseCache
from ftpipe.records.evaluation import Arm, Evaluation, EvaluationSpec, ItemSet, SamplingParams, Task
from tests.evaluation.factories import MINI, item
from tests.evaluation.fakes import ScriptedChat

LABELS = ("billing", "refund", "other")
ITEMS = ItemSet(
    name="test.jsonl", sha256="0" * 64, items=tuple(item(LABELS[index % 3], number=index) for index in range(60))
)
ARMS = (Arm(name="base", model="base", price=MINI), Arm(name="tuned", model="ft:base"))


def reply(model: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """The base always says billing, the tuned model is right but for every tenth item."""
    number = int(str(messages[-1]["content"]).split()[-1])
    if model == "base":
        return "Billing."
    return "no idea" if number % 10 == 3 else LABELS[number % 3]


def run(chat: ScriptedChat | None = None, **asked: Any) -> Evaluation:
    """One evaluation of the two arms."""
    spec = EvaluationSpec(**{"arms": ARMS} | asked)
    asker = RequestRunner(chat or ScriptedChat(reply), ResponseCache(), sleep=lambda _seconds: None)
    return evaluate(ITEMS, spec, runner=asker, clock=lambda: 1_795_000_000.0)


def test_a_better_model_wins_with_interval_and_regressions() -> None:
    """54 of 60 against 20 of 60, and the two items that only the base had right."""
    evaluation = run()
    headline = evaluation.primary_comparison("tuned")
    assert (evaluation.task, evaluation.primary_metric, headline.verdict) == (Task.LABEL, "normalised", "win")
    assert evaluation.arms[0].score("normalised").value == pytest.approx(20 / 60)
    assert headline.difference == pytest.approx(34 / 60)
    worse, better = evaluation.changed_items("tuned")
    assert (len(worse), len(better)) == (2, 36)
    assert headline.only_baseline == 2


def test_labels_get_macro_f1_and_a_confusion() -> None:
    """Over all items, with interval and comparison."""
    evaluation = run()
    assert evaluation.arms[0].confusion["refund"] == {"billing": 20}
    assert evaluation.arms[1].confusion["billing"] == {"billing": 18, "(other)": 2}
    macro = evaluation.arms[0].score("macro_f1")
    assert macro.value == pytest.approx(0.5 / 3)
    assert {comparison.metric for comparison in evaluation.comparisons} == {"exact", "normalised", "macro_f1"}


def test_usage_is_counted_with_latency_and_cost() -> None:
    """10 prompt and 2 completion tokens a request, a quarter of a second each."""
    usage = run().arms[0].usage
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (60, 600, 120)
    assert (usage.latency_p50_s, usage.latency_p95_s) == (0.25, 0.25)
    assert usage.cost_per_request == pytest.approx((10 * 0.4 + 2 * 1.6) / 1e6)
    assert run().arms[1].usage.cost is None


def test_every_arm_is_asked_the_same_way() -> None:
    """One sampler for all of them."""
    chat = ScriptedChat(reply)
    run(chat, sampling=SamplingParams(temperature=0.2, max_tokens=9, seed=5))
    assert set(chat.settings) == {(0.2, 9, 5, None)}
    asked = {model: sorted(text for other, text in chat.asked if other == model) for model in ("base", "ft:base")}
    assert asked["base"] == asked["ft:base"]


def test_a_third_arm_with_a_better_prompt_is_corrected_for() -> None:
    """Base, base with the better prompt, tuned."""
    prompted = Arm(name="base + prompt", model="base", system="Answer with one word.", is_control=True)
    evaluation = run(arms=(ARMS[0], prompted, ARMS[1]), gates=("normalised>=+0.03",))
    assert evaluation.challengers == ("base + prompt", "tuned")
    assert evaluation.primary_comparison("base + prompt").verdict == "inconclusive"
    assert evaluation.primary_comparison("tuned").p_value_adjusted == pytest.approx(
        3 * evaluation.primary_comparison("tuned").p_value
    )
    assert [one.baseline for one in evaluation.control_comparisons("tuned")] == ["base + prompt"]
    assert [gate.passed for gate in evaluation.gates] == [True]


def test_samples_are_averaged_before_they_are_paired() -> None:
    """Three answers an item are still sixty items."""
    evaluation = run(sampling=SamplingParams(temperature=0.7, samples=3))
    assert evaluation.arms[0].usage.requests == 180
    assert evaluation.primary_comparison("tuned").items == 60
    assert len(evaluation.outcomes[0].answers["base"]) == 3


def test_a_refused_item_counts_as_wrong_and_is_counted() -> None:
    """The endpoint said no to one item only."""
    chat = ScriptedChat(lambda _model, messages: LABELS[int(str(messages[-1]["content"]).split()[-1]) % 3])
    chat.faults = [RequestRefusedError("content filter")]
    evaluation = run(chat)
    assert sum(arm.usage.rejected for arm in evaluation.arms) == 1
    assert sum(arm.score("exact").value for arm in evaluation.arms) == pytest.approx(2 - 1 / 60)


def judging(prefers: str) -> ScriptedChat:
    """A judge that prefers the right answer, or whatever comes first."""

    def replies(model: str, messages: Sequence[Mapping[str, Any]]) -> str:
        if model != "judge":
            return reply(model, messages)
        parts = re.split(r"=== \w+ === ?", str(messages[-1]["content"]))
        wanted, first = parts[2].splitlines()[1], parts[3].splitlines()[1]
        if prefers == "first":
            return '{"winner": "A"}'
        return '```json\n{"winner": "A"}\n```' if first == wanted else '{"winner": "B"}'

    return ScriptedChat(replies)


def test_a_judge_is_asked_in_both_orders() -> None:
    """A fair one finds the better arm, and flips only where neither is right."""
    [judged] = run(judging("right"), judge_model="judge").judgments
    assert judged.verdict == "win"
    assert judged.flip_rate == pytest.approx(6 / 60)
    assert judged.wins + judged.losses + judged.ties == 60


def test_a_judge_who_likes_the_first_place_decides_nothing() -> None:
    """Every pair flips, so every pair is a tie, and the flip rate says so."""
    [judged] = run(judging("first"), judge_model="judge").judgments
    assert (judged.wins, judged.losses, judged.flip_rate) == (0, 0, 1.0)
    assert judged.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ("normalised>=+0.03@95%", True),
        ("normalised>=+0.55", False),
        ("normalised>=0.75", True),
        ("normalised>=0.9", False),
        ("macro_f1>=+20%@99%", True),
    ],
)
def test_a_gate_tests_the_lower_end(gate: str, passed: bool) -> None:
    """The gain is 0.567 and the score 0.9, but their lower ends are lower."""
    [result] = run(gates=(gate,)).gates
    assert result.passed is passed
    assert "tuned" in result.explanation


def test_regressions_can_be_limited() -> None:
    """Two items got worse."""
    assert [gate.passed for gate in run(max_regressions=2).gates] == [True]
    assert [gate.passed for gate in run(max_regressions=1).gates] == [False]


def test_a_gate_on_what_was_not_measured_is_refused() -> None:
    """The hint lists what was."""
    with pytest.raises(UsageError, match="not measured"):
        run(gates=("rouge_l>=0.5",))


def test_too_few_arms_or_one_name_twice_are_refused_before_anything_is_asked() -> None:
    """No request is spent on a comparison that cannot be one."""
    chat = ScriptedChat(reply)
    with pytest.raises(UsageError, match="one model alone"):
        run(chat, arms=ARMS[:1])
    with pytest.raises(UsageError, match="same name"):
        run(chat, arms=(ARMS[0], ARMS[0]))
    with pytest.raises(UsageError, match="cannot be read"):
        run(chat, gates=("exact>>1",))
    assert chat.asked == []


def test_the_same_question_has_the_same_name_and_survives_json() -> None:
    """An evaluation can be stored and read again as it was."""
    evaluation = run()
    assert evaluation.id == run().id != run(sampling=SamplingParams(seed=1)).id
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_tools_and_documents_are_scored_by_structure() -> None:
    """The task is found out from the file's wanted answers."""
    documents = ItemSet(
        name="j", sha256="0" * 64, items=tuple(item(json.dumps({"a": index}), number=index) for index in range(8))
    )
    chat = ScriptedChat(
        lambda model, messages: json.dumps({"a": int(str(messages[-1]["content"]).split()[-1])}, indent=1)
    )
    spec = EvaluationSpec(arms=ARMS, answer_schema={"type": "object", "required": ["a", "b"]})
    evaluation = evaluate(documents, spec, runner=RequestRunner(chat, ResponseCache()))
    assert (evaluation.task, evaluation.primary_metric) == (Task.JSON, "json_match")
    assert evaluation.arms[0].score("json_match").value == 1
    assert evaluation.arms[0].score("schema_valid").value == 0
    assert evaluation.arms[0].fields == {"a": 1.0}


def test_items_are_read_from_a_file(tmp_path: Path) -> None:
    """Name and digest come with them."""
    lines = [
        {"messages": [{"role": "user", "content": f"q{index}"}, {"role": "assistant", "content": "a"}]}
        for index in range(5)
    ]
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    data = read_items(path, limit=3)
    assert (data.name, len(data.items), len(data.sha256)) == ("held_out.jsonl", 3, 64)
