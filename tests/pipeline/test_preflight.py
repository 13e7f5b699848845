"""What a plan states for hosts that choose nothing themselves, and what a host's own estimate does to it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import CostLimitError, QuotaError, UsageError
from ftpipe.pipeline.preflight import Plan, make_plan, quote_blocker
from ftpipe.providers.profiles import Profile, find_profile
from ftpipe.providers.responses import PriceQuote
from ftpipe.records import Hyperparameters, Method
from tests.fakes.records import cost_of, dataset_at, report_of, spec_of


def plan_at(
    provider: str,
    tmp_path: Path,
    *,
    method: Method = Method.SUPERVISED,
    grader: dict[str, Any] | None = None,
    **values: Any,
) -> Plan:
    dataset = dataset_at(tmp_path / "a.jsonl")
    update = {"hyperparameters": Hyperparameters.model_validate(values), "method": method, "grader": grader}
    spec = spec_of(dataset).model_copy(update=update)
    profile = find_profile(provider)
    return make_plan(spec, report_of(dataset), profile=profile, today=dt.date(2026, 11, 29))


def test_plan_states_the_rate_that_stands_for_a_multiplier(tmp_path: Path) -> None:
    """With the host's default and its source, so that nothing is converted silently."""
    plan = plan_at("together", tmp_path, n_epochs=3, learning_rate_multiplier=2.0)
    assert plan.spec.hyperparameters.learning_rate == 2e-5
    assert plan.spec.hyperparameters.learning_rate_multiplier == "auto"
    assert any("learning rate 2e-05 stands for the multiplier 2" in text for text in plan.notices)
    assert any("togethercomputer/openapi" in text for text in plan.notices)
    assert plan.blockers == ()


def test_plan_states_the_default_rate_and_the_epochs(tmp_path: Path) -> None:
    """The host would take absent values for zero."""
    plan = plan_at("together", tmp_path)
    assert (plan.spec.hyperparameters.n_epochs, plan.spec.hyperparameters.learning_rate) == (3, 1e-5)
    assert any("1e-05 is the host's default" in text for text in plan.notices)


def test_plan_keeps_a_rate_that_is_given(tmp_path: Path) -> None:
    """And a rate and a multiplier together are refused."""
    plan = plan_at("together", tmp_path, n_epochs=1, learning_rate=1e-3)
    assert (plan.spec.hyperparameters.learning_rate, plan.notices) == (1e-3, ())
    both = plan_at("together", tmp_path, n_epochs=1, learning_rate=1e-3, learning_rate_multiplier=2.0)
    assert [type(blocker) for blocker in both.blockers] == [UsageError]


def test_plan_refuses_a_rate_that_no_table_translates(tmp_path: Path) -> None:
    """Rather than to guess."""
    dataset = dataset_at(tmp_path / "a.jsonl")
    profile = Profile(name="mine", target="openai", learning_rate="absolute")
    plan = make_plan(spec_of(dataset), report_of(dataset), profile=profile, today=dt.date(2026, 11, 29))
    assert "absolute learning rates" in plan.blockers[0].message


def test_plan_at_openai_is_as_requested(tmp_path: Path) -> None:
    """Hosts with multipliers get them unchanged, and no absolute rate."""
    plan = plan_at("openai", tmp_path, learning_rate_multiplier=2.0)
    assert plan.spec.hyperparameters == Hyperparameters(learning_rate_multiplier=2.0)
    refused = plan_at("openai", tmp_path, learning_rate=1e-3)
    assert "does not take learning_rate" in refused.blockers[0].message


@pytest.mark.parametrize(
    ("quote", "max_cost", "known", "error"),
    [
        (PriceQuote(price=0.02), None, True, None),
        (PriceQuote(price=0.0219), None, True, None),
        (PriceQuote(price=0.03), None, True, CostLimitError),
        (PriceQuote(price=0.03), 0.03, True, None),
        (PriceQuote(price=0.03), 0.02, True, CostLimitError),
        (PriceQuote(price=99.0), None, False, None),
        (PriceQuote(price=99.0), 50.0, False, CostLimitError),
        (PriceQuote(price=None), None, False, None),
        (PriceQuote(price=None), 50.0, False, CostLimitError),
        (PriceQuote(price=None), 50.0, True, None),
        (PriceQuote(price=0.01, allowed=False), 50.0, True, QuotaError),
    ],
)
def test_quote_above_what_was_shown_or_allowed_is_refused(
    quote: PriceQuote, max_cost: float | None, error: type[Exception] | None, *, known: bool
) -> None:
    """Before the job exists; a tenth more than the plan said is the difference of two tokenizers."""
    profile = find_profile("together")
    cost = cost_of(0.02 if known else None)
    blocker = quote_blocker(quote, cost, profile=profile, max_cost=max_cost)
    assert (type(blocker) if blocker else None) is error


def test_plan_leaves_an_unknown_price_to_a_host_that_quotes(tmp_path: Path) -> None:
    """The limit is checked when the host has estimated it; elsewhere an unknown price is refused."""
    dataset = dataset_at(tmp_path / "a.jsonl")
    report = report_of(dataset).model_copy(update={"cost": cost_of(None)})
    today = dt.date(2026, 11, 29)
    spec = spec_of(dataset)
    at_together = make_plan(spec, report, profile=find_profile("together"), today=today, max_cost=5.0)
    assert at_together.blockers == ()
    at_openai = make_plan(spec, report, profile=find_profile("openai"), today=today, max_cost=5.0)
    assert [type(one) for one in at_openai.blockers] == [CostLimitError]


CHECK = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.answer}}", "operation": "eq"}


@pytest.mark.parametrize("provider", ["local", "azure"])
def test_plan_of_reinforcement_needs_a_grader(tmp_path: Path, provider: str) -> None:
    """Which is checked before anything is uploaded where ftpipe itself runs it."""
    missing = plan_at(provider, tmp_path, method=Method.REINFORCEMENT)
    assert [blocker.message for blocker in missing.blockers] == [
        "reinforcement needs a grader, which scores the answers"
    ]
    hyperparameters = {"compute_multiplier": 2.0, "eval_interval": 5, "eval_samples": 2}
    assert plan_at(provider, tmp_path, method=Method.REINFORCEMENT, grader=CHECK, **hyperparameters).blockers == ()
    judge = {"type": "score_model", "name": "j", "model": "m", "input": [{"role": "user", "content": "x"}]}
    assert plan_at(provider, tmp_path, method=Method.REINFORCEMENT, grader=judge).blockers == ()
    other = plan_at(provider, tmp_path, method=Method.REINFORCEMENT, grader={"type": "label_model"})
    assert ["it calls a model" in blocker.message for blocker in other.blockers] == [True] * (provider == "local")


def test_plan_refuses_options_of_reinforcement_for_other_methods(tmp_path: Path) -> None:
    """They would have no effect."""
    plan = plan_at("local", tmp_path, eval_samples=2)
    assert "--eval-samples is for reinforcement only" in plan.blockers[0].message
