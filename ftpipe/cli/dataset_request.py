"""What a call asks for, resolved: which file, whose rules, which base model, at which provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.cli.context import CliContext
from ftpipe.config import Settings
from ftpipe.dataset import prepared
from ftpipe.errors import UsageError
from ftpipe.records import Finding, Method, Report, RunSpec

if TYPE_CHECKING:
    from ftpipe.dataset.check_settings import CheckSettings
    from ftpipe.providers.profiles import Profile

LOCAL_PROVIDER = "local"
"""The provider that costs nothing and needs no key."""
STRICTEST_TARGET = "openai"
"""Whose rules apply where no provider was chosen: what passes them passes everywhere."""


@dataclass(frozen=True)
class DatasetRequest:
    """One dataset, one base model, one set of rules."""

    data: Path
    """Absolute, so that a run can be taken up from another folder."""
    validation: Path | None
    provider: str | None
    """``None`` where nobody chose one."""
    target: str
    model: str
    method: Method | None
    epochs: int | None
    """``None`` where the provider decides."""


def resolve_for_prepare(settings: Settings, *, given: Path | None) -> DatasetRequest:
    """What ``prepare`` works on; without a provider the widest rules apply.

    Raises:
        UsageError: There is no dataset, or no file under its name.
    """
    config = settings.config
    data = given or config.data
    if data is None:
        raise UsageError("no dataset was named", "ftpipe prepare FILE, or set data in ftpipe.toml")
    rules = (
        config.provider or (provider_for_model(settings, config.model) if config.model else None) or STRICTEST_TARGET
    )
    return _request(settings, data, config.validation, _profile(settings, rules), provider=config.provider)


def resolve_for_train(settings: Settings, context: CliContext, *, given: Path | None) -> DatasetRequest:
    """What ``train`` works on; without a provider it is the free one, unless the model lives elsewhere.

    Raises:
        UsageError: There is no dataset, no file under its name, or a hosted model without a provider.
    """
    config = settings.config
    data, validation = _training_files(settings, context, given)
    home = provider_for_model(settings, config.model) if config.model else None
    if config.provider is None and home not in (None, LOCAL_PROVIDER):
        raise UsageError(
            f"{config.model} is a hosted model, and no provider was chosen",
            f"--provider {home} trains there for money, --provider {LOCAL_PROVIDER} a model on this machine for free",
        )
    provider = config.provider or LOCAL_PROVIDER
    return _request(settings, data, validation, _profile(settings, provider), provider=provider)


def _request(
    settings: Settings, data: Path, validation: Path | None, profile: Profile, *, provider: str | None
) -> DatasetRequest:
    epochs = settings.config.hyperparameters.n_epochs
    for path in filter(None, (data, validation)):
        require_file(path)
    return DatasetRequest(
        data=data.absolute(),
        validation=validation.absolute() if validation else None,
        provider=provider,
        target=profile.target,
        model=settings.config.model or profile.default_model,
        method=settings.config.method,
        epochs=epochs if isinstance(epochs, int) else None,
    )


def _training_files(settings: Settings, context: CliContext, given: Path | None) -> tuple[Path, Path | None]:
    config, origins = settings.config, settings.origins
    if given is not None:
        return given, config.validation
    is_named = context.config_path is not None or origins.get("data") == "FTPIPE_DATA"
    last = prepared.latest()
    if config.data is not None and (is_named or last is None):
        return config.data, config.validation
    if last is None:
        raise UsageError("no dataset was named, and none was prepared", "ftpipe train FILE")
    context.print_status(f"training with the dataset prepared last: {last.train}")
    return last.train, last.validation if "validation" not in origins else config.validation


def require_file(path: Path) -> None:
    """Refuse what is no file.

    Raises:
        UsageError: There is nothing under that name, or it is a folder.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a dataset", "name a .jsonl file in it")
    if path.exists():
        return
    from ftpipe.suggestions import nearest_name

    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = nearest_name(path.name, names)
    hint = f"did you mean {path.parent / nearest}?" if nearest else "check the path"
    raise UsageError(f"there is no file {path}", hint)


def _profile(settings: Settings, name: str) -> Profile:
    from ftpipe.providers.profiles import find_profile

    return find_profile(name, settings.config.providers)


def provider_for_model(settings: Settings, model: str) -> str | None:
    """The provider that trains this model: by its usual one, or by its prices; ``None`` where nobody is known to."""
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.providers.profiles import load_profiles

    profiles = load_profiles(settings.config.providers).values()
    usual = next((profile.name for profile in profiles if profile.default_model == model), None)
    priced = (p.name for p in profiles if p.paid and PriceTable.load(target=p.target).row(model) is not None)
    return usual or next(priced, None)


def validate_and_count(
    context: CliContext,
    settings: Settings,
    request: DatasetRequest,
    rules: CheckSettings | None = None,
    *,
    test: Path | None = None,
    max_cost: float | None = None,
    for_job: bool = False,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Validate and count, with a progress bar on a terminal; nothing is sent anywhere.

    Args:
        context: Where progress goes.
        settings: The configuration.
        request: The dataset to check.
        rules: Which rules, how strict; those of the configuration by default.
        test: A held-out file that must not leak into the training file.
        max_cost: More than this is a finding.
        for_job: Also ask for what only a job needs.
        on_finding: Told every finding, also those that the report does not keep.

    Raises:
        DatasetError: The file cannot be read at all.
    """
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.cli.check_options import check_settings
    from ftpipe.cli.output.progress import file_progress, first_finding_printer
    from ftpipe.stages.count import count
    from ftpipe.stages.validate import ScanObserver, validate

    chosen = rules or check_settings(settings.config)
    with file_progress(context, "checking", request.data) as progress:
        report = validate(
            request.data,
            target=request.target,
            method=request.method,
            model=request.model,
            validation=request.validation,
            test=test,
            settings=chosen,
            for_job=for_job,
            observer=ScanObserver(progress, first_finding_printer(context, request.data), on_finding),
        )
    with file_progress(context, "counting", request.data) as progress:
        return count(
            report,
            model=request.model,
            epochs=request.epochs,
            prices=PriceTable.load(settings.config.prices, target=request.target),
            max_cost=max_cost,
            settings=chosen,
            observer=ScanObserver(progress, on_finding=on_finding),
        )


def spec_of(settings: Settings, request: DatasetRequest, report: Report) -> RunSpec:
    """The run that this call asks for."""
    config = settings.config
    return RunSpec(
        provider=request.provider or LOCAL_PROVIDER,
        data=request.data,
        validation=request.validation,
        model=request.model,
        method=report.method,
        hyperparameters=config.hyperparameters,
        suffix=config.suffix,
        seed=config.seed,
        integrations=config.integrations,
        metadata=config.metadata,
    )
