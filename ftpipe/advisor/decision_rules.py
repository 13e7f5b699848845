"""The decision between retrieval, prompting and fine-tuning, as an ordered table of questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftpipe.advisor.break_even import MIN_CACHED_PROMPT_TOKENS
from ftpipe.advisor.inputs import (
    MAX_BREAK_EVEN_DAYS,
    MIN_DAYS_TO_SHUTDOWN,
    MIN_EXAMPLES,
    RECOMMENDED_EXAMPLES,
    AdviceInputs,
)
from ftpipe.records.advice import BreakEven, Recommendation


@dataclass(frozen=True)
class RuleOutcome:
    """The answer to a rule's question, what follows, and the recommendation if the answer is decisive."""

    answer: str
    effect: str
    recommendation: Recommendation | None = None
    first_step: str = ""


@dataclass(frozen=True)
class Rule:
    """One question of the decision, and what its answer means."""

    key: str
    question: str
    decide: Callable[[AdviceInputs, dict[str, BreakEven]], RuleOutcome]


def _yes_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not known"}[value]


def _evaluation(inputs: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    answer = _yes_no(inputs.has_evaluation)
    if inputs.has_evaluation:
        return RuleOutcome(answer, "Progress can be measured.")
    step = (
        "Build a test set of 50 to 200 held-out items and measure the baseline: ftpipe evaluate BASE --data test.jsonl"
    )
    return RuleOutcome(answer, "Without a baseline there is no way to tell whether a change helped.", first_step=step)


def _knowledge(inputs: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    answer = _yes_no(inputs.lacks_knowledge)
    if inputs.lacks_knowledge is None:
        return RuleOutcome(answer, "Assumed not to be the cause.")
    if not inputs.lacks_knowledge:
        return RuleOutcome(answer, "Retrieval would not help.")
    if not inputs.wrong_behavior:
        return RuleOutcome(
            answer,
            "Put the knowledge into the context; tuning on facts teaches the model to make facts up.",
            Recommendation.RETRIEVAL,
        )
    if inputs.better_prompt_is_enough:
        return RuleOutcome(answer, "Retrieve the knowledge; the prompt fixes the rest.", Recommendation.RETRIEVAL)
    if (inputs.clean_examples or 0) >= RECOMMENDED_EXAMPLES:
        return RuleOutcome(
            answer, "Retrieve the knowledge and tune the behavior; the gains add up.", Recommendation.MIX
        )
    step = f"Collect {RECOMMENDED_EXAMPLES} clean examples before you tune the behavior as well."
    return RuleOutcome(
        answer, "Retrieve the knowledge first; there are too few examples to tune.", Recommendation.RETRIEVAL, step
    )


def _prompt(inputs: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    answer = _yes_no(inputs.better_prompt_is_enough)
    if inputs.better_prompt_is_enough:
        return RuleOutcome(answer, "Keep prompting: a prompt can be changed in a minute.", Recommendation.PROMPTING)
    if inputs.better_prompt_is_enough is None:
        return RuleOutcome(
            answer,
            "This has not been tried yet.",
            first_step="Try the best prompt you can write, with three to five examples in it.",
        )
    return RuleOutcome(answer, "Prompting alone is not enough.")


def _examples(inputs: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    count = inputs.clean_examples
    if count is None:
        return RuleOutcome(
            "not known",
            "Tuning needs examples.",
            first_step=f"Count your clean examples: {RECOMMENDED_EXAMPLES} are needed.",
        )
    if count >= RECOMMENDED_EXAMPLES:
        return RuleOutcome(f"{count:,}", "Enough to see whether tuning helps.")
    step = f"Collect {RECOMMENDED_EXAMPLES - count} more clean examples of the desired behavior."
    limit = (
        f"enough to start a job, which needs {MIN_EXAMPLES}"
        if count >= MIN_EXAMPLES
        else (f"a job needs at least {MIN_EXAMPLES}")
    )
    effect = f"Too few to see an effect ({limit}); put the best ones into the prompt."
    return RuleOutcome(f"{count:,}", effect, Recommendation.PROMPTING, step)


def _smaller_model(inputs: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    answer = _yes_no(inputs.smaller_model_is_enough)
    if inputs.smaller_model_is_enough:
        return RuleOutcome(answer, "This saves the most money: a small tuned model replaces a large one.")
    return RuleOutcome(answer, "No savings from a smaller model are assumed.")


def _long_prompt(inputs: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    length = inputs.prompt_tokens
    if length is None:
        return RuleOutcome("not known", "Whether a shorter prompt saves money depends on the prompt's length.")
    if length >= MIN_CACHED_PROMPT_TOKENS and inputs.prompt_caching is not False:
        return RuleOutcome(f"{length:,} tokens, cached", "Caching already saves most of what a shorter prompt would.")
    return RuleOutcome(
        f"{length:,} tokens, not cached", "A tuned model needs a shorter prompt, which saves money in each call."
    )


def _privacy(inputs: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    answer = _yes_no(inputs.needs_privacy)
    if inputs.needs_privacy:
        return RuleOutcome(
            answer, "The data cannot be sent to a provider; train and serve locally.", Recommendation.LOCAL
        )
    if inputs.needs_privacy is None:
        return RuleOutcome(answer, "Assumed that the data can be sent to a provider.")
    return RuleOutcome(answer, "The data can be sent to a provider.")


def _shutdown(inputs: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    if inputs.hosted_training_available is False:
        return RuleOutcome("no new jobs", "A hosted model cannot be trained with this account.", Recommendation.LOCAL)
    if inputs.shutdown_date is None or inputs.today is None:
        return RuleOutcome("no shutdown announced", "A hosted model is safe to depend on.")
    left = max(0, (inputs.shutdown_date - inputs.today).days)
    answer = f"{inputs.shutdown_date.isoformat()}, {left} days left"
    if left < MIN_DAYS_TO_SHUTDOWN:
        effect = "Too soon to depend on it; local weights, or another provider, are not affected."
        return RuleOutcome(answer, effect, Recommendation.LOCAL)
    return RuleOutcome(answer, "There is enough time left.")


def _break_even(_: AdviceInputs, results: dict[str, BreakEven]) -> RuleOutcome:
    result = results.get("hosted")
    if result is None:
        return RuleOutcome("not known", "Give prompt tokens, training tokens and prices to compute it.")
    if result.calls is None:
        return RuleOutcome("never", "A tuned call costs as much or more; do not tune to save money.")
    answer = f"break-even after {result.calls:,} calls"
    if result.days is not None and result.days > MAX_BREAK_EVEN_DAYS:
        return RuleOutcome(f"{answer}, {result.days:,.0f} days", "Too slow; do not tune to save money.")
    if result.days is not None and result.outcome == "pays off":
        return RuleOutcome(f"{answer}, {result.days:,.0f} days", "It pays for itself in time.", Recommendation.HOSTED)
    if result.outcome == "too late":
        return RuleOutcome(answer, "The model is shut down before the break-even; do not tune to save money.")
    return RuleOutcome(answer, "How soon that is depends on the calls per day.")


def _speed_or_behavior(inputs: AdviceInputs, _: dict[str, BreakEven]) -> RuleOutcome:
    if inputs.needs_speed:
        return RuleOutcome("speed", "A small tuned model on your own machine answers faster.", Recommendation.LOCAL)
    is_inferred = (
        inputs.wrong_behavior is None and inputs.better_prompt_is_enough is False and inputs.lacks_knowledge is False
    )
    if inputs.wrong_behavior or is_inferred:
        return RuleOutcome(
            "behavior",
            "A prompt does not fix it and there are examples: train locally, which costs no fee.",
            Recommendation.LOCAL,
        )
    return RuleOutcome("no", "There is no reason to tune; a better prompt costs least.", Recommendation.PROMPTING)


RULES: tuple[Rule, ...] = (
    Rule("evaluation", "Is there an evaluation with a baseline?", _evaluation),
    Rule("knowledge", "Does the model fail for lack of knowledge?", _knowledge),
    Rule("prompt", "Does a better prompt or few-shot examples fix it?", _prompt),
    Rule("examples", f"Are there {RECOMMENDED_EXAMPLES} clean examples of the desired behavior?", _examples),
    Rule("privacy", "Must the data stay on your own machines?", _privacy),
    Rule("smaller-model", "Would a smaller tuned model be enough?", _smaller_model),
    Rule("long-prompt", "Is the prompt long and not cached?", _long_prompt),
    Rule("shutdown", "When is the hosted model shut down?", _shutdown),
    Rule("break-even", "Does the expected traffic pay for the training?", _break_even),
    Rule("speed-or-behavior", "Is speed or behavior a reason to tune anyway?", _speed_or_behavior),
)
"""The rules in order; the first outcome with a recommendation ends the decision."""


CAUSES = ("lacks_knowledge", "wrong_behavior", "better_prompt_is_enough")
"""Fields that say why the model fails."""
_REASONS_BY_THEMSELVES = ("knowledge", "prompt", "break-even")
"""Rules whose decision rests on what was answered or computed, and on no assumption about the cause."""
_TUNING = (Recommendation.HOSTED, Recommendation.LOCAL, Recommendation.MIX)


def missing_fields(inputs: AdviceInputs, decisive: Rule, recommendation: Recommendation) -> tuple[str, ...]:
    """Fields without which a recommendation would only be an assumption.

    Args:
        inputs: What is known.
        decisive: The rule that decided.
        recommendation: What it decided.
    """
    is_known = decisive.key in _REASONS_BY_THEMSELVES or (decisive.key == "speed-or-behavior" and inputs.needs_speed)
    causes = () if is_known or any(getattr(inputs, name) is not None for name in CAUSES) else CAUSES
    examples = ("clean_examples",) if inputs.clean_examples is None and (causes or recommendation in _TUNING) else ()
    return (*causes, *examples)


def is_decided(inputs: AdviceInputs, *, last_field: str, rules: tuple[Rule, ...]) -> bool:
    """Whether the answers so far already decide, so that an interview can stop.

    Args:
        inputs: What is known so far.
        last_field: Field that was asked last.
        rules: The decision.
    """
    order = ("has_evaluation", "wrong_behavior", "better_prompt_is_enough", "clean_examples")
    if last_field not in order:
        return inputs.needs_privacy is True
    return any(rule.decide(inputs, {}).recommendation is not None for rule in rules[: order.index(last_field) + 1])
