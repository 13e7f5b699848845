"""The hyperparameters of an old model in the terms of a new host; each one is stated with its reason."""

from __future__ import annotations

from ftpipe.auto_epochs import auto_epochs
from ftpipe.catalog.base_models import find_base
from ftpipe.catalog.learning_rates import absolute_learning_rate
from ftpipe.providers.profiles import Profile
from ftpipe.records import Hyperparameters, Method, Model
from ftpipe.records.migration import HyperparameterChange

OPENAI_AUTO_MULTIPLIERS = {
    "gpt-4o-mini-2024-07-18": 1.8,
    "gpt-3.5-turbo-0125": 2.0,
    "gpt-3.5-turbo-1106": 2.0,
    "gpt-3.5-turbo-0613": 2.0,
}
"""The multiplier that OpenAI chooses by itself: a job that reports it was trained at OpenAI's default rate.

Source: public run logs, 2024-12 to 2026-09 (second-hand).
"""
OPENAI_TARGETS = frozenset({"openai", "azure"})
"""Targets whose multiplier scales OpenAI's own rates, which are not published."""
PACKING_TARGETS = frozenset({"together"})
"""Targets whose batch size counts packed sequences, not examples. Source: Together's data preparation page, 2026-08."""


def nearest_hyperparameters(
    model: Model, profile: Profile, *, source_target: str, method: Method, examples: int
) -> tuple[Hyperparameters, tuple[HyperparameterChange, ...]]:
    """The hyperparameters for the new job, and what to tell about each.

    Args:
        model: The old model.
        profile: The new host.
        source_target: Target of the old model's host.
        method: The training method.
        examples: Training examples.
    """
    old = model.resolved or model.requested or Hyperparameters()
    epochs, epochs_why = _epochs(old, profile, examples)
    batch_size, batch_why = _batch_size(old, profile)
    multiplier, rate_why = _multiplier(old, model.base, profile, source_target)
    rate = absolute_learning_rate(profile.target, method, multiplier) if profile.learning_rate == "absolute" else None
    beta = old.beta if method is Method.DPO else None
    new = Hyperparameters.model_validate(
        {
            "n_epochs": epochs,
            "batch_size": batch_size,
            "learning_rate_multiplier": multiplier if rate is None else "auto",
            "learning_rate": None if rate is None else rate.value,
            "beta": beta,
        }
    )
    rows = [
        ("n_epochs", _text(old.n_epochs), _text(epochs), epochs_why),
        ("batch_size", _text(old.batch_size), _text(batch_size), batch_why),
        ("learning_rate_multiplier", _text(old.learning_rate_multiplier), _text(multiplier), rate_why),
    ]
    rows += [("learning_rate", "not stated", f"{rate.value:g}", rate.reason)] if rate is not None else []
    rows += [("beta", _text(beta), _text(beta), "as before")] if beta is not None else []
    return new, tuple(HyperparameterChange(name=n, before=b, after=a, reason=why) for n, b, a, why in rows)


def with_choices(
    hyperparameters: Hyperparameters,
    changes: tuple[HyperparameterChange, ...],
    *,
    epochs: int | None,
    learning_rate: float | None,
) -> tuple[Hyperparameters, tuple[HyperparameterChange, ...]]:
    """The same with the epochs and the learning rate that the user has named."""
    update: dict[str, object] = {}
    rows = {change.name: change for change in changes}
    for name, value, flag in (("n_epochs", epochs, "--epochs"), ("learning_rate", learning_rate, "--learning-rate")):
        if value is not None:
            update[name] = value
            before = rows[name].before if name in rows else "not stated"
            rows[name] = HyperparameterChange(name=name, before=before, after=_text(value), reason=f"named with {flag}")
    if learning_rate is not None:
        update["learning_rate_multiplier"] = "auto"
    return hyperparameters.model_copy(update=update), tuple(rows.values())


def _epochs(old: Hyperparameters, profile: Profile, examples: int) -> tuple[int | str, str]:
    if old.n_epochs != "auto":
        return old.n_epochs, "as before"
    if profile.chooses_epochs:
        return "auto", "the host chooses them"
    why = f"{profile.title or profile.name} does not choose them; OpenAI would choose this for {examples:,} examples"
    return auto_epochs(examples), why


def _batch_size(old: Hyperparameters, profile: Profile) -> tuple[int | str, str]:
    title = profile.title or profile.name
    if old.batch_size != "auto" and profile.target in PACKING_TARGETS:
        return "auto", f"{title} counts packed sequences, not examples, and has a size of its own for each base"
    return old.batch_size, "the host chooses it" if old.batch_size == "auto" else "as before"


def _multiplier(old: Hyperparameters, base: str, profile: Profile, source_target: str) -> tuple[float | str, str]:
    """The multiplier for the new host, and why."""
    multiplier: float | str = old.learning_rate_multiplier
    why = "the host chooses it" if multiplier == "auto" else "as before"
    if source_target in OPENAI_TARGETS and profile.target not in OPENAI_TARGETS and isinstance(multiplier, float | int):
        row = find_base(base)
        default = OPENAI_AUTO_MULTIPLIERS.get(row.name) if row else None
        if default is not None:
            multiplier = round(multiplier / default, 4)
            why = f"OpenAI chooses {default:g} by itself for this base, which is 1 elsewhere"
        else:
            why = "as before; what OpenAI chooses by itself for this base is not known"
    return multiplier, why


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
