"""Evaluate models on the same items: send the requests, score the answers, compare the arms, check the gates."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.canonical_json import canonical_json
from ftpipe.errors import UsageError
from ftpipe.evaluation.compare import Evidence, compare
from ftpipe.evaluation.gates import Gate, check_gates, parse_gates
from ftpipe.evaluation.items import detect_task, items_from_records, tool_calls_of
from ftpipe.evaluation.judge import run_judge
from ftpipe.evaluation.metrics import MACRO_F1, Metric, select_metrics
from ftpipe.evaluation.metrics.structured import matching_fields
from ftpipe.evaluation.metrics.text import confusion
from ftpipe.evaluation.request_runner import Progress, RequestRunner, ignore_progress
from ftpipe.evaluation.response_cache import Request
from ftpipe.evaluation.statistics import percentile
from ftpipe.grading.answer_agreement import normalize
from ftpipe.records.evaluation import (
    Answer,
    Arm,
    ArmResult,
    Evaluation,
    EvaluationSpec,
    Item,
    ItemSet,
    JudgeResult,
    Outcome,
    SamplingParams,
    Task,
    TokenPrice,
    Usage,
)
from ftpipe.records.idempotency_keys import EVALUATION_SAMPLING_FIELDS

if TYPE_CHECKING:
    from ftpipe.providers.interface import Models


ArmAnswers = Mapping[str, Mapping[str, tuple[Answer, ...]]]
"""Arm → item id → its answers."""


class ProviderChat:
    """Sends an evaluation's requests to the models of a provider.

    Args:
        models: ``provider.models``.
        service_tier: For hosts that compute chats that can wait after others; empty for none.
    """

    def __init__(self, models: Models, service_tier: str = "") -> None:
        self._models = models
        self._service_tier = service_tier

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        seed: int | None,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> Answer:
        """Send one request and wait for the whole answer."""
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        options |= {"seed": seed} if seed is not None else {}
        options |= {"tools": [dict(tool) for tool in tools]} if tools else {}
        options |= {"service_tier": self._service_tier} if self._service_tier else {}
        completion = self._models.chat(model, [dict(message) for message in messages], **options)
        return Answer(
            text=completion.text,
            tool_calls=tool_calls_of({"tool_calls": list(completion.tool_calls)}),
            prompt_tokens=completion.prompt_tokens or 0,
            completion_tokens=completion.completion_tokens or 0,
            latency_s=completion.latency_s,
        )


def read_items(path: Path, *, limit: int | None = None, cluster_by: str | None = None) -> ItemSet:
    """The items of a dataset file.

    Args:
        path: Chat JSONL whose last assistant messages are the expected answers.
        limit: Only the first so many items.
        cluster_by: Key whose value names an item's cluster.

    Raises:
        DatasetError: A line is not a record, or none has an expected answer.
        LocalStateError: The file cannot be read.
    """
    from ftpipe.dataset import open_dataset, read_records

    dataset = open_dataset(path)
    items = items_from_records(read_records(path), cluster_by=cluster_by)[:limit]
    return ItemSet(name=path.name, sha256=dataset.sha256, items=tuple(items))


def evaluate(
    item_set: ItemSet,
    spec: EvaluationSpec,
    *,
    runner: RequestRunner,
    clock: Callable[[], float] = time.time,
    on_progress: Progress = ignore_progress,
) -> Evaluation:
    """Evaluate two or more arms on the same items with the same sampling parameters.

    Args:
        item_set: Prompts with expected answers.
        spec: The arms, and how their answers are scored.
        runner: Sends the requests.
        clock: UTC Unix seconds.
        on_progress: Called with the number of answers so far and the number of all requests.

    Raises:
        UsageError: There are too few arms, two of one name, an unknown metric, or a gate that cannot be parsed.
        FtpipeError: The endpoint cannot be used; answers so far are cached, and the same call continues from there.
    """
    _scoring_of(item_set.items, spec)  # its errors are raised before anything is sent
    answers = _request_answers(item_set.items, spec, runner, on_progress)
    evaluation = evaluate_answers(item_set, spec, answers, clock=clock, judge=runner)
    return evaluation.model_copy(update={"concurrency": runner.concurrency})


def evaluate_answers(
    item_set: ItemSet,
    spec: EvaluationSpec,
    answers: ArmAnswers,
    *,
    clock: Callable[[], float] = time.time,
    judge: RequestRunner | None = None,
) -> Evaluation:
    """Evaluate answers that are there already: of several endpoints, or recorded ones.

    Args:
        item_set: Prompts with expected answers.
        spec: The arms, and how their answers are scored.
        answers: Arm → item id → at least one answer; every arm has answered every item.
        clock: UTC Unix seconds.
        judge: Sends the requests of a judge model, if the spec has one.

    Raises:
        UsageError: There are too few arms, two of one name, an unknown metric, or a gate that cannot be parsed.
    """
    items = item_set.items
    gates, task, reason, metrics, primary = _scoring_of(items, spec)
    outcomes = _score_items(items, spec.arms, answers, metrics)
    evidence = Evidence(outcomes, metrics)
    names = [metric.name for metric in metrics]
    names += [MACRO_F1] if task is Task.LABEL or MACRO_F1 in spec.metrics else []
    evaluation = Evaluation(
        id=evaluation_id(items, spec),
        created_at=int(clock()),
        data=item_set.name,
        data_sha256=item_set.sha256,
        task=task,
        task_reason=reason,
        primary_metric=primary,
        confidence=spec.confidence,
        sampling=spec.sampling,
        arms=tuple(summarize_arm(arm, evidence, names, task, spec.confidence) for arm in spec.arms),
        comparisons=compare(evidence, spec.arms, names, primary, spec.confidence),
        outcomes=tuple(outcomes),
    )
    if judge is not None:
        evaluation = evaluation.model_copy(update={"judgments": _run_judge(evaluation, spec, judge)})
    results = check_gates(evaluation, evidence, gates, max_regressions=spec.max_regressions)
    return evaluation.model_copy(update={"gates": results})


def evaluation_id(items: Sequence[Item], spec: EvaluationSpec) -> str:
    """The same id for the same items, models, prompts and sampling parameters."""
    arms = [[arm.model, arm.system] for arm in spec.arms]
    sampling = EVALUATION_SAMPLING_FIELDS.values(spec.sampling)
    parts = {"items": [item.id for item in items], "arms": arms, "sampling": sampling}
    return "eval-" + hashlib.sha256(canonical_json(parts)).hexdigest()[:12]


def _scoring_of(items: Sequence[Item], spec: EvaluationSpec) -> tuple[list[Gate], Task, str, list[Metric], str]:
    """Gates, task with its reason, metrics, and the name of the primary one."""
    _require_comparable(items, spec.arms)
    gates = [gate for text in spec.gates for gate in parse_gates(text)]
    detected, reason = detect_task(items)
    task = spec.task or detected
    metrics, primary = select_metrics(
        task, items, requested=spec.metrics, schema=spec.answer_schema, grader=spec.grader
    )
    return gates, task, reason if spec.task is None else "as requested", metrics, primary


def _require_comparable(items: Sequence[Item], arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    if len(arms) < 2:
        raise UsageError("a comparison needs two models", "name the baseline with --baseline")
    if len(set(names)) < len(names):
        raise UsageError("two arms have the same name", "give each arm its own name")
    if not items:
        raise UsageError("there are no items", "name a file with prompts and expected answers with --data")


def _request_answers(
    items: Sequence[Item], spec: EvaluationSpec, runner: RequestRunner, on_progress: Progress
) -> dict[str, dict[str, tuple[Answer, ...]]]:
    """Every arm's answers. The arms take turns on each item, so that a slow period slows all of them."""
    requests = {(arm.name, item.id): item_requests(item, arm, spec.sampling) for item in items for arm in spec.arms}
    answers = runner.run([request for group in requests.values() for request in group], on_progress=on_progress)
    return {
        arm.name: {item.id: tuple(answers[request.key] for request in requests[arm.name, item.id]) for item in items}
        for arm in spec.arms
    }


def _score_items(
    items: Sequence[Item], arms: Sequence[Arm], answers: ArmAnswers, metrics: Sequence[Metric]
) -> list[Outcome]:
    """Every arm's answers with scores."""
    outcomes = []
    for item in items:
        item_answers = {arm.name: answers[arm.name][item.id] for arm in arms}
        scores = {
            arm: {metric.name: _mean_score(item, samples, metric) for metric in metrics}
            for arm, samples in item_answers.items()
        }
        outcomes.append(Outcome(item=item, answers=item_answers, scores=scores))
    return outcomes


def item_requests(item: Item, arm: Arm, sampling: SamplingParams) -> list[Request]:
    """The requests of one arm for one item: one for each sample."""
    messages = tuple(arm.messages_for(item))
    return [
        Request(model=arm.model, messages=messages, sampling=sampling, sample=sample, tools=item.tools)
        for sample in range(sampling.samples)
    ]


def _mean_score(item: Item, samples: Sequence[Answer], metric: Metric) -> float:
    return sum(0.0 if answer.error else metric.compute(item, answer) for answer in samples) / len(samples)


def summarize_arm(arm: Arm, evidence: Evidence, metrics: Sequence[str], task: Task, confidence: float) -> ArmResult:
    """One arm's scores, usage, and confusion table or field accuracy.

    Args:
        arm: The arm.
        evidence: The scored items.
        metrics: Names of all metrics.
        task: Decides whether there is a confusion table or a field accuracy.
        confidence: Of the intervals.
    """
    answers = [answer for outcome in evidence.outcomes for answer in outcome.answers[arm.name]]
    return ArmResult(
        arm=arm,
        scores=tuple(evidence.arm_score(arm.name, metric, confidence) for metric in metrics),
        usage=summarize_usage(answers, arm.price),
        confusion=_confusion(evidence, arm.name) if task is Task.LABEL else {},
        fields=_field_accuracy(evidence, arm.name) if task is Task.JSON else {},
    )


def summarize_usage(answers: Sequence[Answer], price: TokenPrice | None) -> Usage:
    """Requests, tokens, latency and cost of answers; refused requests have no latency."""
    answered = [answer for answer in answers if not answer.error]
    latencies = [answer.latency_s for answer in answered]
    prompt_tokens = sum(answer.prompt_tokens for answer in answered)
    completion_tokens = sum(answer.completion_tokens for answer in answered)
    cost = price.cost(prompt_tokens, completion_tokens) if price else None
    return Usage(
        requests=len(answers),
        rejected=len(answers) - len(answered),
        cached=sum(answer.from_cache for answer in answers),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        latency_p50_s=percentile(latencies, 0.50) if answered else None,
        latency_p95_s=percentile(latencies, 0.95) if answered else None,
        cost=cost,
        cost_per_request=cost / len(answered) if cost is not None and answered else None,
        currency=price.currency if price else "USD",
    )


def _confusion(evidence: Evidence, arm: str) -> dict[str, dict[str, int]]:
    return confusion(
        [(normalize(outcome.item.expected), normalize(outcome.answers[arm][0].text)) for outcome in evidence.outcomes]
    )


def _field_accuracy(evidence: Evidence, arm: str) -> dict[str, float]:
    """Top-level field → share of items where it is correct."""
    hits: dict[str, list[bool]] = {}
    for outcome in evidence.outcomes:
        for name, is_correct in matching_fields(outcome.item, outcome.answers[arm][0]).items():
            hits.setdefault(name, []).append(is_correct)
    return {name: sum(values) / len(values) for name, values in hits.items()}


def _run_judge(evaluation: Evaluation, spec: EvaluationSpec, runner: RequestRunner) -> tuple[JudgeResult, ...]:
    if not spec.judge_model:
        return ()
    return tuple(
        run_judge(
            runner,
            spec.judge_model,
            evaluation.outcomes,
            baseline=evaluation.baseline,
            challenger=name,
            alpha=1 - spec.confidence,
        )
        for name in evaluation.challengers
    )
