"""Resolve the arms of an evaluation: models, provider, prompts and prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.catalog.inference_prices import answer_price
from ftpipe.cli.context import CliContext
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.config import Settings
from ftpipe.errors import UsageError
from ftpipe.records import Model
from ftpipe.records.evaluation import Arm

if TYPE_CHECKING:
    from ftpipe.registry import Registry


@dataclass(frozen=True)
class EvaluationArms:
    """The arms of an evaluation, and their registered models."""

    provider: str
    arms: tuple[Arm, ...]
    known: dict[str, Model]
    """Arm name → its registered model."""


def resolve_arms(
    context: CliContext, settings: Settings, models: Sequence[str], *, baseline: str | None, prompt: Path | None
) -> EvaluationArms:
    """Resolve the baseline, the baseline with a second prompt if one is given, and the models.

    Args:
        context: Opens the registry.
        settings: The configuration.
        models: Names, aliases or job ids.
        baseline: Name of the baseline; ``None`` for the base of the first model.
        prompt: File with the system prompt of a second baseline.

    Raises:
        UsageError: A baseline is missing, or the models are at different providers.
    """
    registry = context.registry(settings)
    registered = {name: _known(registry, name) for name in [*models, *([baseline] if baseline else [])]}
    first = registered[models[0]]
    if baseline is None and first is None:
        nearest = registry.models.nearest_name(models[0])
        raise UsageError(
            f"the registry does not know {models[0]}, so its base model is unknown",
            f"did you mean {nearest}?" if nearest else "see `ftpipe models list`, or add --baseline MODEL",
        )
    base = baseline or (first.base if first else "")
    provider = _provider(settings, [model for model in registered.values() if model])
    target = _target(settings, provider)
    names = [base, *models] if base not in models else list(models)
    arms = [arm_of(name, registered.get(name), target) for name in dict.fromkeys(names)]
    if prompt is not None:
        arms.insert(1, _prompted(arms[0], prompt))
    known = {arm.name: model for arm in arms if (model := registered.get(arm.name)) is not None}
    return EvaluationArms(provider, tuple(arms), known)


def _known(registry: Registry, name: str) -> Model | None:
    try:
        return registry.models.get(name)
    except UsageError:
        return None


def _provider(settings: Settings, known: Sequence[Model]) -> str:
    providers = sorted({model.provider for model in known})
    if settings.config.provider:
        return settings.config.provider
    if len(providers) > 1:
        raise UsageError(
            f"the models are at different providers: {', '.join(providers)}", "compare models of one provider"
        )
    return providers[0] if providers else LOCAL_PROVIDER


def _target(settings: Settings, provider: str) -> str:
    from ftpipe.providers.profiles import find_profile

    return find_profile(provider, settings.config.providers).target


def arm_of(name: str, model: Model | None, target: str) -> Arm:
    """Build an arm, named as the user wrote it; a checkpoint is requested by its own name."""
    if model is None:
        base, _, rest = name.removeprefix("ft:").partition(":")
        return Arm(name=name, model=name, price=answer_price(target, base, "tuned" if rest else "base"))
    is_checkpoint = name in {checkpoint.model for checkpoint in model.checkpoints}
    return Arm(name=name, model=name if is_checkpoint else model.id, price=answer_price(target, model.base, "tuned"))


def _prompted(baseline: Arm, prompt: Path) -> Arm:
    try:
        text = prompt.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as exc:
        raise UsageError(f"{prompt} is not UTF-8 text", "save it as UTF-8") from exc
    if not text:
        raise UsageError(f"{prompt} is empty", "write the system prompt into it")
    return baseline.model_copy(update={"name": f"{baseline.name} + {prompt.name}", "system": text, "is_control": True})
