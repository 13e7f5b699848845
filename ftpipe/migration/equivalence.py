"""Is the new model as good as the old one? Paired comparisons on held-out prompts, and the gate.

Two questions, each on the prompts that can answer it; a prompt on which one of the models was trained answers neither:

- *expected answers*: both models against correct answers, item by item;
- *recorded answers*: for prompts without a correct answer, how often the new model answers as the old one did, against
  how often the old one's own samples did.

The gate of each: the lower end of the confidence interval of ``new - old`` is not below ``-margin``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ftpipe.errors import NotFoundError, UsageError
from ftpipe.evaluation.evaluate import evaluate_answers, item_requests, read_items
from ftpipe.evaluation.items import detect_task, estimate_max_tokens
from ftpipe.evaluation.metrics import select_metrics
from ftpipe.evaluation.request_runner import Progress, RequestRunner, ignore_progress
from ftpipe.formatting import plural
from ftpipe.migration.prompts import prompt_ids
from ftpipe.migration.recording import RecordedPrompt, Recording, prompt_id
from ftpipe.records.evaluation import Answer, Arm, Evaluation, EvaluationSpec, Item, ItemSet, SamplingParams
from ftpipe.records.migration import ComparisonKind, GateComparison

DEFAULT_MARGIN = 0.05
"""How much worse the new model may be: five points of the metric."""
DEFAULT_CONFIDENCE = 0.95
MIN_ITEMS = 10
"""Prompts without which nothing is gated: no interval of fewer says anything."""


@dataclass
class ComparisonSet:
    """The prompts on which the models are compared."""

    items: dict[str, Item] = field(default_factory=dict)
    """Prompt id → prompt with a correct answer."""
    recorded: dict[str, Answer] = field(default_factory=dict)
    """Prompt id → what the old model answered to one of ``items``, if it was recorded."""
    agreement: dict[str, RecordedPrompt] = field(default_factory=dict)
    """Prompt id → prompt without a correct answer."""
    trained: set[str] = field(default_factory=set)
    """Ids of prompts that are left out, because the old or the new model was or will be trained on them."""
    max_tokens: int | None = None
    """Limit of the recorded answers; ``None`` without a recording."""
    name: str = ""
    sha256: str = ""

    @property
    def left_out(self) -> int:
        """Prompts that are left out."""
        return len(self.trained)

    @property
    def missing(self) -> list[Item]:
        """Prompts with a correct answer to which the old model's answer is not known yet."""
        return [item for key, item in self.items.items() if key not in self.recorded]

    @property
    def size(self) -> int:
        """Prompts that the new model is asked."""
        return len(self.items) + len(self.agreement)

    @property
    def sampling(self) -> SamplingParams:
        """Greedy, with a limit that no expected answer reaches."""
        needed = estimate_max_tokens(list(self.items.values())) if self.items else 1
        return SamplingParams(temperature=0, max_tokens=max(needed, self.max_tokens or 0), seed=0)


def collect_prompts(
    *, training: Path, held_out: Path | None = None, recording: Recording | None = None
) -> ComparisonSet:
    """The prompts that can answer whether the new model is as good.

    Args:
        training: The file that the new model is trained on.
        held_out: Data with correct answers on which neither model was trained.
        recording: Recorded answers of the old model.

    Raises:
        UsageError: No prompt is left.
    """
    trained = frozenset(prompt_ids(training))
    found = ComparisonSet()
    names: list[str] = []
    digests: list[str] = []
    if held_out is not None:
        items = read_items(held_out)
        names.append(items.name)
        digests.append(items.sha256)
        for item in items.items:
            _add_item(found, prompt_id(item.messages, item.tools), item, trained)
    if recording is not None:
        names.append(f"answers of {recording.header.model}")
        found.max_tokens = recording.header.sampling.max_tokens
        for prompt in recording.prompts:
            _add_recorded(found, prompt, trained)
    found.name = ", ".join(names)
    found.sha256 = digests[0] if digests else ""
    if not found.size:
        raise UsageError(
            f"no prompt is left to compare the models on: {plural(found.left_out, 'prompt')} of {found.name} "
            f"{'is' if found.left_out == 1 else 'are'} in training data",
            "name data that was not trained on with --held-out, or record answers to it with `ftpipe models record`",
        )
    return found


def _add_item(found: ComparisonSet, key: str, item: Item, trained: frozenset[str]) -> None:
    if key in trained:
        found.trained.add(key)
    else:
        found.items.setdefault(key, item)


def _add_recorded(found: ComparisonSet, prompt: RecordedPrompt, trained: frozenset[str]) -> None:
    if prompt.seen or prompt.id in trained:
        found.trained.add(prompt.id)
        found.items.pop(prompt.id, None)
        return
    if prompt.expected is not None:
        found.items.setdefault(prompt.id, prompt.to_item())
    if prompt.id in found.items:
        if not prompt.greedy.error:
            found.recorded[prompt.id] = prompt.greedy.to_answer()
    elif not prompt.greedy.error:
        found.agreement[prompt.id] = prompt


@dataclass(frozen=True)
class Contender:
    """One of the two models, and what sends its requests."""

    arm: Arm
    runner: RequestRunner


def ask(
    contender: Contender, items: Mapping[str, Item], sampling: SamplingParams, on_progress: Progress = ignore_progress
) -> dict[str, Answer]:
    """One greedy answer for each item; answers are cached, so that a repeated call asks only for the rest.

    Returns:
        Prompt id → answer.
    """
    requests = {key: item_requests(item, contender.arm, sampling)[0] for key, item in items.items()}
    answers = contender.runner.run(list(requests.values()), on_progress=on_progress)
    return {key: answers[request.key] for key, request in requests.items()}


def missing_answers(contender: Contender, prompts: ComparisonSet) -> int:
    """How many answers of a model would have to be asked for."""
    items = [*prompts.items.values(), *(one.to_item() for one in prompts.agreement.values())]
    requests = [item_requests(item, contender.arm, prompts.sampling)[0] for item in items]
    return sum(contender.runner.cache.get(request.key) is None for request in requests)


def compare_models(
    prompts: ComparisonSet,
    *,
    old: Contender | None,
    old_arm: Arm,
    new: Contender,
    margin: float = DEFAULT_MARGIN,
    confidence: float = DEFAULT_CONFIDENCE,
    on_progress: Progress = ignore_progress,
    clock: Callable[[], float],
) -> list[tuple[Evaluation, GateComparison]]:
    """Ask for the answers that are missing, and compare.

    Args:
        prompts: From ``collect_prompts``.
        old: Asks the old model; ``None`` if it can no longer be asked, so that only recorded answers count.
        old_arm: The old model.
        new: The new model.
        margin: How much worse it may be.
        confidence: Of the intervals.
        on_progress: Called with answers so far and all requests of the new model.
        clock: UTC Unix seconds.

    Returns:
        An evaluation and its gate for each of the two questions that has prompts.
    """
    everything = {**prompts.items, **{key: _recorded_item(one) for key, one in prompts.agreement.items()}}
    answers = ask(new, everything, prompts.sampling, on_progress)
    results = []
    answered_now: dict[str, Answer] = {}
    if old is not None and prompts.missing:
        keys = {key: item for key, item in prompts.items.items() if key not in prompts.recorded}
        with suppress(NotFoundError):  # it has been shut down: what was recorded counts
            answered_now = ask(old, keys, prompts.sampling)
    recorded = prompts.recorded | answered_now
    arms = (old_arm, new.arm)
    known = {key: item for key, item in prompts.items.items() if key in recorded}
    if known:
        note = _note(prompts, unasked=len(prompts.items) - len(known))
        old_answers = {key: (recorded[key],) for key in known}
        cost = _cost((old_arm, answered_now.values()), (new.arm, [answers[key] for key in prompts.items]))
        results.append(
            _compare(
                "expected answers", prompts, known, arms, old_answers, answers, margin, confidence, note, cost, clock
            )
        )
    if prompts.agreement:
        items = {key: everything[key] for key in prompts.agreement}
        has_samples = all(len(one.samples) > 1 for one in prompts.agreement.values())
        own = {
            key: tuple(sample.to_answer() for sample in (one.samples[1:] if has_samples else one.samples))
            for key, one in prompts.agreement.items()
        }
        note = _note(prompts, unasked=0) + ("" if has_samples else NO_SAMPLES)
        cost = _cost((new.arm, [answers[key] for key in items]))
        results.append(
            _compare("recorded answers", prompts, items, arms, own, answers, margin, confidence, note, cost, clock)
        )
    return results


NO_SAMPLES = (
    "the recording has one answer per prompt, so the old model counts as one that always answers the same; "
    "`ftpipe models record --samples 4` measures how often it does"
)


def _compare(
    kind: ComparisonKind,
    prompts: ComparisonSet,
    items: Mapping[str, Item],
    arms: tuple[Arm, Arm],
    old_answers: Mapping[str, tuple[Answer, ...]],
    new_answers: Mapping[str, Answer],
    margin: float,
    confidence: float,
    note: str,
    cost: float | None,
    clock: Callable[[], float],
) -> tuple[Evaluation, GateComparison]:
    old, new = arms
    listed = list(items.values())
    task, _ = detect_task(listed)
    _, primary = select_metrics(task, listed)
    gate = f"{primary}>=-{margin:.4f}@{confidence * 100:g}%"
    spec = EvaluationSpec(arms=arms, sampling=prompts.sampling, task=task, confidence=confidence, gates=(gate,))
    by_item: dict[str, dict[str, tuple[Answer, ...]]] = {
        old.name: {item.id: old_answers[key] for key, item in items.items()},
        new.name: {item.id: (new_answers[key],) for key, item in items.items()},
    }
    item_set = ItemSet(name=f"{prompts.name} ({kind})", sha256=prompts.sha256, items=tuple(listed))
    evaluation = evaluate_answers(item_set, spec, by_item, clock=clock)
    comparison = evaluation.primary_comparison(new.name)
    result = evaluation.gates[0]
    if len(listed) < MIN_ITEMS:
        explanation = (
            f"{result.explanation}; {plural(len(listed), 'prompt')} are too few for a gate, which needs {MIN_ITEMS}"
        )
        result = result.model_copy(update={"passed": False, "explanation": explanation})
        evaluation = evaluation.model_copy(update={"gates": (result,)})
    scores = {one.arm.name: one.score(primary).value for one in evaluation.arms}
    return evaluation, GateComparison(
        kind=kind,
        evaluation_id=evaluation.id,
        items=len(listed),
        metric=primary,
        old_score=scores[old.name],
        new_score=scores[new.name],
        difference=comparison.difference,
        low=comparison.low,
        high=comparison.high,
        confidence=confidence,
        gate=result,
        cost=cost,
        note=note,
    )


def _cost(*paid: tuple[Arm, Collection[Answer]]) -> float | None:
    """What answers have cost; ``None`` if a price is not known, or an endpoint counted no tokens."""
    total = 0.0
    for arm, answers in paid:
        if arm.price is None or any(one.prompt_tokens <= 0 and not one.error for one in answers):
            return None
        total += sum(arm.price.cost(one.prompt_tokens, one.completion_tokens) for one in answers)
    return total


def _recorded_item(prompt: RecordedPrompt) -> Item:
    """A prompt whose expected answer is what the old model answered."""
    greedy = prompt.greedy
    update = {"expected": greedy.content, "expected_calls": greedy.tool_calls}
    return prompt.to_item().model_copy(update=update)


def _note(prompts: ComparisonSet, *, unasked: int) -> str:
    parts = []
    if prompts.left_out:
        parts.append(f"{plural(prompts.left_out, 'prompt')} of training data left out")
    if unasked:
        parts.append(f"{plural(unasked, 'prompt')} left out, because the old model has no recorded answer")
    return "".join(f"{part}; " for part in parts)
