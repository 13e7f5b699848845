"""Recommend retrieval, prompting, or hosted or local fine-tuning, with the costs and what would change the answer.

Knowledge belongs into a model's context; behavior can be tuned. The rules are in ``decision_rules``; the first
decisive answer gives the recommendation. What would change it is found by deciding again with one answer changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftpipe.advisor.break_even import MIN_CACHED_PROMPT_TOKENS, Training, TypicalCall, break_even, epoch_cost
from ftpipe.advisor.decision_rules import RULES, missing_fields
from ftpipe.advisor.inputs import (
    MAX_BREAK_EVEN_DAYS,
    MIN_DAYS_TO_SHUTDOWN,
    MIN_EXAMPLES,
    RECOMMENDED_EXAMPLES,
    AdviceInputs,
    question_of,
)
from ftpipe.records.advice import Advice, AdviceStep, BreakEvenCase, MissingAnswer, Recommendation
from ftpipe.records.evaluation import TokenPrice

NOTHING_KNOWN = "Each recommendation would rest on answers that are not known yet."


def advise(inputs: AdviceInputs) -> Advice:
    """Answer the questions in order and return the recommendation, its reason, and what would change it.

    Nothing is recommended if the answers that are not known could lead to anything else.

    Raises:
        UsageError: Prices are in different currencies, or a training price is missing.
    """
    cases = break_even_cases(inputs)
    recommendation, steps, first_steps, missing = _decide(inputs, cases)
    figures = [figure for case in cases for figure in (case.result.base, case.result.tuned, case.result.one_time)]
    epoch = None
    if inputs.training_tokens is not None and inputs.tuned is not None and inputs.tuned.training is not None:
        epoch = epoch_cost(inputs.training_tokens, inputs.tuned)
        figures.append(epoch)
    return Advice(
        recommendation=recommendation,
        first_steps=first_steps,
        missing=missing,
        reason=f"{steps[-1].question} {steps[-1].answer}. {steps[-1].effect}" if recommendation else NOTHING_KNOWN,
        steps=steps,
        would_change=tuple(_would_change(inputs, recommendation)),
        epoch_cost=epoch,
        break_even=cases,
        observations=tuple(_observations(inputs, cases)),
        prices=tuple(_unique(row for figure in figures for row in figure.rows)),
    )


def break_even_cases(inputs: AdviceInputs) -> tuple[BreakEvenCase, ...]:
    """The break-even as described, with the opposite caching, over the range of epochs, and for local training."""
    if inputs.prompt_tokens is None or inputs.training_tokens is None or inputs.base is None:
        return ()
    cached = inputs.prompt_caching is not False
    cases: list[BreakEvenCase] = []
    if inputs.tuned is not None:
        cases.append(_break_even_case("hosted", inputs, inputs.tuned, cached, inputs.epochs))
        other = "hosted, prompt not cached" if cached else "hosted, prompt cached"
        cases.append(_break_even_case(other, inputs, inputs.tuned, not cached, inputs.epochs))
        for label, epochs in (("fewest", inputs.epochs_low), ("most", inputs.epochs_high)):
            if epochs is not None and epochs != inputs.epochs:
                name = f"hosted, {label} epochs ({epochs})"
                cases.append(_break_even_case(name, inputs, inputs.tuned, cached, epochs))
    local = _own_hardware_price(inputs.base.currency)
    cases.append(_break_even_case("local", inputs, local, cached, inputs.epochs))
    return tuple(cases)


def _break_even_case(name: str, inputs: AdviceInputs, tuned: TokenPrice, caching: bool, epochs: int) -> BreakEvenCase:
    is_local = name == "local"
    result = break_even(
        TypicalCall(
            fixed_prompt=inputs.prompt_tokens or 0,
            tuned_fixed_prompt=inputs.tuned_prompt_tokens,
            variable=inputs.variable_tokens,
            output=inputs.output_tokens,
        ),
        Training(
            tokens=inputs.training_tokens or 0,
            epochs=epochs,
            data=inputs.data_cost,
            evaluation=inputs.evaluation_cost,
            labor=inputs.labor_hours * inputs.hourly_rate,
        ),
        base=inputs.base or tuned,
        tuned=tuned,
        caching=caching,
        calls_per_day=inputs.calls_per_day,
        today=inputs.today,
        shutdown_date=None if is_local else inputs.shutdown_date,
        hosting_per_day=inputs.hosting_per_day if is_local else 0.0,
    )
    return BreakEvenCase(name=name, result=result)


def _own_hardware_price(currency: str) -> TokenPrice:
    return TokenPrice(
        model="LoRA on your own machine", input=0, output=0, training=0, currency=currency, source="your own machine"
    )


def _decide(
    inputs: AdviceInputs, cases: tuple[BreakEvenCase, ...]
) -> tuple[Recommendation | None, tuple[AdviceStep, ...], tuple[str, ...], tuple[MissingAnswer, ...]]:
    """Run the rules up to the first decisive one, which the last rule always is, and see what it rests on."""
    results = {case.name: case.result for case in cases}
    steps: list[AdviceStep] = []
    first_steps: list[str] = []
    recommendation: Recommendation | None = None
    missing: tuple[MissingAnswer, ...] = ()
    for rule in RULES:
        outcome = rule.decide(inputs, results)
        steps.append(
            AdviceStep(
                key=rule.key,
                question=rule.question,
                answer=outcome.answer,
                effect=outcome.effect,
                is_decisive=outcome.recommendation is not None,
            )
        )
        first_steps += [outcome.first_step] if outcome.first_step else []
        if outcome.recommendation is not None:
            fields = missing_fields(inputs, rule, outcome.recommendation)
            missing = tuple(MissingAnswer(field=name, question=question_of(name)) for name in fields)
            recommendation = None if missing else outcome.recommendation
            steps[-1] = steps[-1].model_copy(update={"is_decisive": not missing})
            break
    return recommendation, tuple(steps), tuple(first_steps), missing


def _would_change(inputs: AdviceInputs, recommendation: Recommendation | None) -> Iterator[str]:
    for condition, changed in _single_answer_changes(inputs):
        other, *_ = _decide(changed, break_even_cases(changed))
        if other is not None and other is not recommendation:
            yield f"If {condition}: {other.value}."


_YES_NO_CHANGES: tuple[tuple[str, str, str], ...] = (
    ("lacks_knowledge", "it fails for lack of knowledge", "it does not lack knowledge"),
    ("wrong_behavior", "it fails in how it answers", "it already answers in the right way"),
    ("better_prompt_is_enough", "a better prompt fixes it", "no prompt fixes it"),
    ("needs_privacy", "the data must stay on your own machines", "the data can be sent to a provider"),
    ("needs_speed", "answers must come faster", "speed does not matter"),
    ("prompt_caching", "the prompt is cached", "the prompt is not cached"),
    ("hosted_training_available", "the account can create jobs", "the account cannot create jobs"),
)
"""Field, the condition for yes, the condition for no."""


def _single_answer_changes(inputs: AdviceInputs) -> Iterator[tuple[str, AdviceInputs]]:
    """Every single answer that could be different, or that is assumed while unknown."""
    for field, if_yes, if_no in _YES_NO_CHANGES:
        current = getattr(inputs, field)
        for value, condition in ((True, if_yes), (False, if_no)):
            if current is not value:
                yield condition, inputs.model_copy(update={field: value})
    count = inputs.clean_examples
    if count is None or count < RECOMMENDED_EXAMPLES:
        yield f"there were {RECOMMENDED_EXAMPLES} clean examples", _with(inputs, clean_examples=RECOMMENDED_EXAMPLES)
    if count is None or count >= RECOMMENDED_EXAMPLES:
        yield f"there were fewer than {RECOMMENDED_EXAMPLES} clean examples", _with(inputs, clean_examples=MIN_EXAMPLES)
    if inputs.shutdown_date is not None:
        yield "the hosted model had no shutdown date", _with(inputs, shutdown_date=None)
    yield from _other_traffic(inputs)


def _other_traffic(inputs: AdviceInputs) -> Iterator[tuple[str, AdviceInputs]]:
    """The traffic from which the training pays off, if there is less today."""
    hosted = next((case.result for case in break_even_cases(inputs) if case.name == "hosted"), None)
    if hosted is None or hosted.calls is None:
        return
    needed = hosted.calls_per_day or max(1, -(-hosted.calls // MAX_BREAK_EVEN_DAYS))
    within = f"{hosted.horizon_days} days" if hosted.horizon_days else "a year"
    if (inputs.calls_per_day or 0) < needed:
        condition = f"there were {needed:,} or more calls per day (break-even within {within})"
        yield condition, _with(inputs, calls_per_day=needed)


def _with(inputs: AdviceInputs, **changes: object) -> AdviceInputs:
    return inputs.model_copy(update=changes)


def _observations(inputs: AdviceInputs, cases: tuple[BreakEvenCase, ...]) -> Iterator[str]:
    """What stands out in these figures."""
    results = {case.name: case.result for case in cases}
    hosted = results.get("hosted")
    if hosted is None:
        return
    cached = results.get("hosted, prompt cached", hosted)
    uncached = results.get("hosted, prompt not cached", hosted)
    if uncached.calls is not None and cached.calls is None:
        yield (
            "A shorter prompt only saves money without caching. With the prompt cached a tuned call costs more, "
            "so the break-even is never reached."
        )
    if hosted.tuned_cached_tokens < inputs.tuned_prompt_tokens and hosted.base_cached_tokens:
        yield (
            f"The short prompt has fewer than {MIN_CACHED_PROMPT_TOKENS:,} tokens, so it is not cached and costs the "
            "full input price."
        )
    if not inputs.hosting_per_day:
        yield "The local case includes no cost for the machine; set one with --hosting-per-day."
    labor = inputs.labor_hours * inputs.hourly_rate
    if labor > hosted.one_time.amount / 2:
        share = labor / hosted.one_time.amount
        yield f"Labor is {share:.0%} of the one-time cost: it decides the break-even, not the training."
    if hosted.horizon_days is not None and hosted.horizon_days < MIN_DAYS_TO_SHUTDOWN:
        yield f"The hosted model is shut down in {hosted.horizon_days} days; the savings end on that day."


def _unique(rows: Iterator[TokenPrice]) -> list[TokenPrice]:
    """The rows once each, in order."""
    return list(dict.fromkeys(rows))
