"""What an evaluation asks, resolved: which models, where, under which prompts, at which prices; and its progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.catalog.inference_prices import answer_price
from ftpipe.cli.context import CliContext
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.config import Settings
from ftpipe.errors import UsageError
from ftpipe.evaluation.request_runner import Progress
from ftpipe.records import Model
from ftpipe.records.evaluation import Arm

if TYPE_CHECKING:
    from ftpipe.registry import Registry

LINE_SECONDS = 10.0


@dataclass(frozen=True)
class EvaluationArms:
    """The arms of an evaluation, and what the registry knows of them."""

    provider: str
    arms: tuple[Arm, ...]
    known: dict[str, Model]
    """Arm name → its registered model."""


def resolve_arms(
    context: CliContext, settings: Settings, models: Sequence[str], *, against: str | None, prompt: Path | None
) -> EvaluationArms:
    """The baseline, the baseline under a better prompt where one is given, and the models.

    Args:
        context: Opens the registry.
        settings: The configuration.
        models: Names, aliases or job ids.
        against: The baseline; the first model's own base where it is ``None``.
        prompt: File with a system prompt for a second baseline.

    Raises:
        UsageError: A baseline is missing, or the models answer at different endpoints.
    """
    registry = context.registry(settings)
    found = {name: _known(registry, name) for name in [*models, *([against] if against else [])]}
    first = found[models[0]]
    if against is None and first is None:
        raise UsageError(
            f"the registry does not know {models[0]}, so its base is not known either", "name it with --against BASE"
        )
    base = against or (first.base if first else "")
    provider = _provider(settings, [model for model in found.values() if model])
    target = _target(settings, provider)
    names = [base, *models] if base not in models else list(models)
    arms = [arm_of(name, found.get(name), target) for name in dict.fromkeys(names)]
    if prompt is not None:
        arms.insert(1, _prompted(arms[0], prompt))
    known = {arm.name: model for arm in arms if (model := found.get(arm.name)) is not None}
    return EvaluationArms(provider, tuple(arms), known)


def _known(registry: Registry, name: str) -> Model | None:
    try:
        return registry.models.get(name)
    except UsageError:
        return None


def _provider(settings: Settings, known: Sequence[Model]) -> str:
    places = sorted({model.provider for model in known})
    if settings.config.provider:
        return settings.config.provider
    if len(places) > 1:
        raise UsageError(
            f"the models answer at different endpoints: {', '.join(places)}", "compare those of one endpoint"
        )
    return places[0] if places else LOCAL_PROVIDER


def _target(settings: Settings, provider: str) -> str:
    from ftpipe.providers.profiles import find_profile

    return find_profile(provider, settings.config.providers).target


def arm_of(name: str, model: Model | None, target: str) -> Arm:
    """An arm under the name that the user gave; a checkpoint keeps its own name at the endpoint."""
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


@contextmanager
def answers_progress(context: CliContext) -> Iterator[Progress]:
    """Progress in answers: a bar on a terminal, a line now and then elsewhere."""
    if context.quiet:
        yield lambda _done, _total: None
    elif not sys.stderr.isatty():
        yield _lines(context)
    else:
        from rich import progress as parts

        from ftpipe.cli.output.progress import console

        columns = (
            parts.TextColumn("asking"),
            parts.BarColumn(),
            parts.MofNCompleteColumn(),
            parts.TimeRemainingColumn(),
        )
        with parts.Progress(*columns, console=console(context), transient=True) as bars:
            task = bars.add_task("asking", total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)


def _lines(context: CliContext) -> Progress:
    last = [time.monotonic()]

    def tell(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] >= LINE_SECONDS:
            last[0] = now
            context.print_status(f"asking: {done:,} of {total:,} answers")

    return tell
