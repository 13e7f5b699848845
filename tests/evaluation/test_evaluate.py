"""An evaluation sends every arm the same requests, then scores, compares, judges and checks gates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from ftpipe.errors import RequestRefusedError, UsageError
from ftpipe.evaluation.evaluate import ProviderChat, evaluate, read_items
from ftpipe.evaluation.request_runner import RequestRunner
from ftpipe.evaluation.response_cache import ResponseCache
from ftpipe.providers.profiles import load_profiles
from ftpipe.providers.responses import ChatCompletion
from ftpipe.records.evaluation import Arm, Evaluation, EvaluationSpec, ItemSet, SamplingParams, Task
from tests.evaluation.factories import MINI, item
from tests.evaluation.fakes import ScriptedChat

LABELS = ("billing", "refund", "other")
ITEMS = ItemSet(
    name="test.jsonl", sha256="0" * 64, items=tuple(item(LABELS[index % 3], number=index) for index in range(60))
)
ARMS = (Arm(name="base", model="base", price=MINI), Arm(name="tuned", model="ft:base"))


def reply(model: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """The base always answers billing, the tuned model is correct except for every tenth item."""
    number = int(str(messages[-1]["content"]).split()[-1])
    if model == "base":
        return "Billing."
    return "no idea" if number % 10 == 3 else LABELS[number % 3]


@pytest.mark.parametrize(("provider", "tier"), [("local", "flex"), ("openai", None)])
def test_provider_chat_says_that_it_can_wait_to_the_local_endpoint(provider: str, tier: str | None) -> None:
    """To other hosts it is a price."""
    options: dict[str, Any] = {}

    class Models:
        def chat(self, model: str, _messages: object, **sampling: Any) -> ChatCompletion:
            options.update(sampling)
            assert model == "base"
            return ChatCompletion(text="billing")

    chat = ProviderChat(cast("Any", Models()), load_profiles()[provider].waiting_service_tier)
    answer = chat.chat("base", [], temperature=0.0, max_tokens=5, seed=None, tools=None)
    assert answer.text == "billing"
    assert options.get("service_tier") == tier


def run(chat: ScriptedChat | None = None, **options: Any) -> Evaluation:
    """One evaluation of the two arms."""
    spec = EvaluationSpec(**{"arms": ARMS} | options)
    runner = RequestRunner(chat or ScriptedChat(reply), ResponseCache(), sleep=lambda _seconds: None)
    return evaluate(ITEMS, spec, runner=runner, clock=lambda: 1_795_000_000.0)


def test_evaluate_better_model_wins() -> None:
    """54 of 60 against 20 of 60, and two items that only the base answered correctly."""
    evaluation = run()
    comparison = evaluation.primary_comparison("tuned")
    assert (evaluation.task, evaluation.primary_metric, comparison.verdict) == (Task.LABEL, "normalized", "win")
    assert evaluation.arms[0].score("normalized").value == pytest.approx(20 / 60)
    assert comparison.difference == pytest.approx(34 / 60)
    regressed, improved = evaluation.changed_items("tuned")
    assert (len(regressed), len(improved)) == (2, 36)
    assert comparison.only_baseline == 2


def test_evaluate_labels_gives_macro_f1_and_confusion() -> None:
    evaluation = run()
    assert evaluation.arms[0].confusion["refund"] == {"billing": 20}
    assert evaluation.arms[1].confusion["billing"] == {"billing": 18, "(other)": 2}
    macro = evaluation.arms[0].score("macro_f1")
    assert macro.value == pytest.approx(0.5 / 3)
    assert {comparison.metric for comparison in evaluation.comparisons} == {"exact", "normalized", "macro_f1"}


def test_evaluate_counts_usage_latency_and_cost() -> None:
    """10 prompt and 2 completion tokens per request, a quarter of a second each."""
    usage = run().arms[0].usage
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (60, 600, 120)
    assert (usage.latency_p50_s, usage.latency_p95_s) == (0.25, 0.25)
    assert usage.cost_per_request == pytest.approx((10 * 0.4 + 2 * 1.6) / 1e6)
    assert run().arms[1].usage.cost is None


def test_evaluate_sends_each_arm_the_same_requests() -> None:
    """With the same sampling parameters."""
    chat = ScriptedChat(reply)
    run(chat, sampling=SamplingParams(temperature=0.2, max_tokens=9, seed=5))
    assert set(chat.settings) == {(0.2, 9, 5, None)}
    prompts = {model: sorted(text for other, text in chat.requests if other == model) for model in ("base", "ft:base")}
    assert prompts["base"] == prompts["ft:base"]


def test_evaluate_corrects_for_a_control_arm() -> None:
    """Base, base with the better prompt, tuned."""
    prompted = Arm(name="base + prompt", model="base", system="Answer with one word.", is_control=True)
    evaluation = run(arms=(ARMS[0], prompted, ARMS[1]), gates=("normalized>=+0.03",))
    assert evaluation.challengers == ("base + prompt", "tuned")
    assert evaluation.primary_comparison("base + prompt").verdict == "inconclusive"
    assert evaluation.primary_comparison("tuned").p_value_adjusted == pytest.approx(
        3 * evaluation.primary_comparison("tuned").p_value
    )
    assert [one.baseline for one in evaluation.control_comparisons("tuned")] == ["base + prompt"]
    assert [gate.passed for gate in evaluation.gates] == [True]


def test_evaluate_averages_samples_per_item() -> None:
    """Three answers per item are still sixty items."""
    evaluation = run(sampling=SamplingParams(temperature=0.7, samples=3))
    assert evaluation.arms[0].usage.requests == 180
    assert evaluation.primary_comparison("tuned").items == 60
    assert len(evaluation.outcomes[0].answers["base"]) == 3


def test_evaluate_scores_a_rejected_item_zero() -> None:
    """The endpoint rejects one item only."""
    chat = ScriptedChat(lambda _model, messages: LABELS[int(str(messages[-1]["content"]).split()[-1]) % 3])
    chat.faults = [RequestRefusedError("content filter")]
    evaluation = run(chat)
    assert sum(arm.usage.rejected for arm in evaluation.arms) == 1
    assert sum(arm.score("exact").value for arm in evaluation.arms) == pytest.approx(2 - 1 / 60)


def judge_that_prefers(choice: str) -> ScriptedChat:
    """A judge that prefers the correct answer, or the first one."""

    def replies(model: str, messages: Sequence[Mapping[str, Any]]) -> str:
        if model != "judge":
            return reply(model, messages)
        parts = re.split(r"=== \w+ === ?", str(messages[-1]["content"]))
        expected, first = parts[2].splitlines()[1], parts[3].splitlines()[1]
        if choice == "first":
            return '{"winner": "A"}'
        return '```json\n{"winner": "A"}\n```' if first == expected else '{"winner": "B"}'

    return ScriptedChat(replies)


def test_judge_compares_in_both_orders() -> None:
    """A fair judge finds the better arm, and flips only if both answers are wrong."""
    [judgment] = run(judge_that_prefers("right"), judge_model="judge").judgments
    assert judgment.verdict == "win"
    assert judgment.flip_rate == pytest.approx(6 / 60)
    assert judgment.wins + judgment.losses + judgment.ties == 60


def test_judge_with_position_bias_is_inconclusive() -> None:
    """Every pair flips, so every pair is a tie and the flip rate is 1."""
    [judgment] = run(judge_that_prefers("first"), judge_model="judge").judgments
    assert (judgment.wins, judgment.losses, judgment.flip_rate) == (0, 0, 1.0)
    assert judgment.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ("normalized>=+0.03@95%", True),
        ("normalized>=+0.55", False),
        ("normalized>=0.75", True),
        ("normalized>=0.9", False),
        ("macro_f1>=+20%@99%", True),
    ],
)
def test_gate_checks_the_lower_end(gate: str, passed: bool) -> None:
    """The gain is 0.567 and the score 0.9, but their lower ends are lower."""
    [result] = run(gates=(gate,)).gates
    assert result.passed is passed
    assert "tuned" in result.explanation


def test_max_regressions_is_a_gate() -> None:
    """Two items regressed."""
    assert [gate.passed for gate in run(max_regressions=2).gates] == [True]
    assert [gate.passed for gate in run(max_regressions=1).gates] == [False]


def test_gate_rejects_a_metric_that_was_not_computed() -> None:
    """The hint lists the computed ones."""
    with pytest.raises(UsageError, match="not computed"):
        run(gates=("rouge_l>=0.5",))


def test_evaluate_rejects_invalid_arms_before_sending() -> None:
    chat = ScriptedChat(reply)
    with pytest.raises(UsageError, match="needs two models"):
        run(chat, arms=ARMS[:1])
    with pytest.raises(UsageError, match="same name"):
        run(chat, arms=(ARMS[0], ARMS[0]))
    with pytest.raises(UsageError, match="cannot be parsed"):
        run(chat, gates=("exact>>1",))
    assert chat.requests == []


def test_evaluation_id_is_stable_and_json_round_trips() -> None:
    evaluation = run()
    assert evaluation.id == run().id != run(sampling=SamplingParams(seed=1)).id
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_evaluate_detects_json_and_validates_schema() -> None:
    """The task is detected from the expected answers."""
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


def test_read_items_from_a_file(tmp_path: Path) -> None:
    """With the file's name and digest."""
    lines = [
        {"messages": [{"role": "user", "content": f"q{index}"}, {"role": "assistant", "content": "a"}]}
        for index in range(5)
    ]
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    data = read_items(path, limit=3)
    assert (data.name, len(data.items), len(data.sha256)) == ("held_out.jsonl", 3, 64)
