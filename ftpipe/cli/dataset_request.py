"""Resolve what ``prepare`` and ``train`` work on: file, rules, base model and provider."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.atomic_files import read_json, write_json
from ftpipe.cli.context import CliContext
from ftpipe.config import Settings
from ftpipe.dataset import prepared
from ftpipe.dataset.identity import sha256_of_dataset
from ftpipe.errors import UsageError
from ftpipe.formatting import relative_path
from ftpipe.paths import state_dir
from ftpipe.records import Finding, Method, Report, RunSpec
from ftpipe.records.job import SERVE_AS_PATTERN

if TYPE_CHECKING:
    from ftpipe.dataset.check_settings import CheckSettings
    from ftpipe.providers.profiles import Profile

CHOICE_FILE = "provider.json"
"""File in the state folder with the provider that was chosen last."""
LOCAL_PROVIDER = "local"
"""The embedded server: free, and no key is needed."""


@dataclass(frozen=True)
class DatasetRequest:
    """A dataset with the base model and the rules to check it for."""

    data: Path
    """Absolute path, so that a run can be resumed from another folder."""
    validation: Path | None
    provider: str | None
    """``None`` if none was chosen."""
    target: str
    model: str
    requested_model: str | None
    """The hosted model that was requested, if ``model`` is trained on this machine in its place."""
    method: Method | None
    epochs: int | None
    """``None`` if the provider decides."""
    max_length: object = None
    """Tokens per sequence, for local training; ``None`` if the trainer decides."""


def resolve_for_prepare(settings: Settings, *, data: Path | None) -> DatasetRequest:
    """Resolve what ``prepare`` and ``validate`` check: for the provider that ``train`` would use.

    Raises:
        UsageError: No dataset is given or configured, or the file does not exist.
    """
    config = settings.config
    data = data or config.data
    if data is None:
        raise UsageError("no dataset was given", "run `ftpipe prepare FILE`, or set data in ftpipe.toml")
    provider = chosen_provider(settings)
    host = provider_for_model(settings, config.model) if config.model else None
    profile = _profile(settings, provider or host or LOCAL_PROVIDER)
    return _resolve(settings, data, config.validation, profile, provider=provider)


def resolve_for_train(settings: Settings, context: CliContext, *, data: Path | None) -> DatasetRequest:
    """Resolve what ``train`` trains on; the default provider is the local one.

    Raises:
        UsageError: There is no dataset, the file does not exist, or a hosted model is given without a provider.
    """
    config = settings.config
    data, validation = _training_files(settings, context, data)
    host = provider_for_model(settings, config.model) if config.model else None
    provider = chosen_provider(settings)
    if provider is None and host not in (None, LOCAL_PROVIDER):
        raise UsageError(
            f"{config.model} is a hosted model, and no provider was chosen",
            f"add --provider {host} to train it there (paid), or --provider {LOCAL_PROVIDER} to train here (free)",
        )
    show_last_choice(context, settings, provider)
    provider = provider or LOCAL_PROVIDER
    return _resolve(settings, data, validation, _profile(settings, provider), provider=provider)


def chosen_provider(settings: Settings) -> str | None:
    """The provider of the configuration, else the one chosen last in this project; ``None`` if none was chosen.

    The last choice does not count for a base model that is trained on this machine, and a hosted base model is not
    trained here because of it.
    """
    config = settings.config
    if config.provider is not None:
        return config.provider
    last = _last_provider(settings)
    host = provider_for_model(settings, config.model) if config.model else None
    if host is not None and (host == LOCAL_PROVIDER or last == LOCAL_PROVIDER):
        return None
    return last


def show_last_choice(context: CliContext, settings: Settings, provider: str | None) -> None:
    """Say that a provider is used because an earlier command named it."""
    if provider is not None and settings.config.provider is None:
        context.print_status(f"provider {provider}, as chosen last; --provider names another one")


def remember_provider(settings: Settings) -> None:
    """Remember a provider that was chosen with ``--provider``, for later commands without it."""
    if settings.origins.get("provider") == "--provider" and state_dir().is_dir():
        write_json(state_dir() / CHOICE_FILE, {"provider": settings.config.provider})


def _last_provider(settings: Settings) -> str | None:
    from ftpipe.providers.profiles import load_profiles

    name = (read_json(state_dir() / CHOICE_FILE) or {}).get("provider")
    return name if isinstance(name, str) and name in load_profiles(settings.config.providers) else None


def _resolve(
    settings: Settings, data: Path, validation: Path | None, profile: Profile, *, provider: str | None
) -> DatasetRequest:
    from ftpipe.cli.base_downloads import require_local_base
    from ftpipe.pipeline.preflight import local_base
    from ftpipe.providers.address import configured_url

    epochs = settings.config.hyperparameters.n_epochs
    for path in filter(None, (data, validation)):
        require_file(path)
    requested = settings.config.model or profile.default_model
    replacement = local_base(requested, profile)
    if profile.name == LOCAL_PROVIDER and not configured_url(profile, os.environ):
        require_local_base(replacement or requested)
    return DatasetRequest(
        data=data.absolute(),
        validation=validation.absolute() if validation else None,
        provider=provider,
        target=profile.target,
        model=replacement or requested,
        requested_model=requested if replacement else None,
        method=settings.config.method,
        epochs=epochs if isinstance(epochs, int) else None,
        max_length=settings.config.hyperparameters.max_length,
    )


def _training_files(settings: Settings, context: CliContext, data: Path | None) -> tuple[Path, Path | None]:
    config, origins = settings.config, settings.origins
    if data is not None:
        return data, config.validation
    last = prepared.latest()
    if config.data is not None:
        origin = relative_path(Path(origins["data"]))
        if last is None or not _is_prepared_from(last, config.data):
            context.print_status(f"training on {relative_path(config.data)}, which {origin} names")
            return config.data, config.validation
        reason = f"prepared from {relative_path(config.data)}, which {origin} names"
    elif last is not None:
        reason = "the dataset that was prepared last; none is configured"
    else:
        raise UsageError("no dataset was given, and none was prepared", "run `ftpipe train FILE`")
    context.print_status(f"training on {relative_path(last.train)}, {reason}")
    return last.train, last.validation if "validation" not in origins else config.validation


def _is_prepared_from(last: prepared.PreparedDataset, data: Path) -> bool:
    """Whether a dataset was prepared from this file as it is now."""
    return last.source == data.absolute() and data.is_file() and last.source_sha256 == sha256_of_dataset(data)


def require_file(path: Path) -> None:
    """Check that a file exists.

    Raises:
        UsageError: It does not exist, or it is a folder.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a dataset", "give a .jsonl file in it")
    if path.exists():
        return
    from ftpipe.suggestions import nearest_file_name

    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = nearest_file_name(path.name, names)
    hint = f"did you mean {path.parent / nearest}?" if nearest else "check the path"
    raise UsageError(f"there is no file {path}", hint)


def require_dataset(path: Path) -> None:
    """Check that a file exists, and that it need not be converted first.

    Raises:
        UsageError: It does not exist, or it is a folder.
        DatasetError: It is in another format; the hint names the command that converts it.
    """
    from ftpipe.dataset.diagnosis import require_known_format

    require_file(path)
    require_known_format(path)


def _profile(settings: Settings, name: str) -> Profile:
    from ftpipe.providers.profiles import find_profile

    return find_profile(name, settings.config.providers)


def provider_for_model(settings: Settings, model: str) -> str | None:
    """Find the provider that trains a model, by default models and price tables; ``None`` if none is known."""
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.providers.profiles import load_profiles

    profiles = load_profiles(settings.config.providers).values()
    default = next((profile.name for profile in profiles if profile.default_model == model), None)
    priced = (p.name for p in profiles if p.paid and PriceTable.load(target=p.target).row(model) is not None)
    return default or next(priced, None)


def validate_and_count(
    context: CliContext,
    settings: Settings,
    request: DatasetRequest,
    rules: CheckSettings | None = None,
    *,
    holdout: Path | None = None,
    max_cost: float | None = None,
    for_job: bool = False,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Validate a dataset and count its tokens, with progress; nothing is sent anywhere.

    Args:
        context: Shows progress.
        settings: The configuration.
        request: The dataset to check.
        rules: Settings of the checks; those of the configuration by default.
        holdout: Held-out file; prompts that are also in the training file are findings.
        max_cost: A higher cost estimate is a finding.
        for_job: Also check what only a job needs.
        on_finding: Called with every finding, also with those that the report does not keep.

    Raises:
        DatasetError: The file cannot be read.
    """
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.cli.check_options import check_settings
    from ftpipe.cli.output.progress import file_progress
    from ftpipe.stages.count import count
    from ftpipe.stages.validate import ScanObserver, validate

    rules = rules or check_settings(settings.config)
    with file_progress(context, "checking", request.data) as progress:
        report = validate(
            request.data,
            target=request.target,
            method=request.method,
            model=request.model,
            validation=request.validation,
            test=holdout,
            settings=rules,
            for_job=for_job,
            max_length=request.max_length,
            observer=ScanObserver(progress, first_finding_printer(context, request.data), on_finding),
        )
    with file_progress(context, "counting", request.data) as progress:
        return count(
            report,
            model=request.model,
            epochs=request.epochs,
            prices=PriceTable.load(settings.config.prices, target=request.target),
            max_cost=max_cost,
            settings=rules,
            observer=ScanObserver(progress, on_finding=on_finding),
        )


def first_finding_printer(context: CliContext, path: Path) -> Callable[[Finding], None] | None:
    """Return a function that shows the first finding of a large file early; ``None`` for other files."""
    from ftpipe.cli.output.progress import MIN_BYTES

    if context.quiet or path.stat().st_size < MIN_BYTES:
        return None
    return lambda finding: context.print_status(
        f"first finding  {finding.code} {finding.name}, line {finding.line}: {finding.message}"
    )


def spec_of(settings: Settings, request: DatasetRequest, report: Report, *, serve_as: str | None = None) -> RunSpec:
    """Build the specification of a run.

    Raises:
        UsageError: ``serve_as`` cannot be part of a model's name.
    """
    if serve_as is not None and not re.fullmatch(SERVE_AS_PATTERN, serve_as):
        raise UsageError(f"{serve_as[:120]!r} cannot be part of a model's name", "use letters, digits, '.', '_' or '-'")
    from ftpipe.pipeline.preflight import spec_of_config

    return spec_of_config(
        settings.config,
        provider=request.provider or LOCAL_PROVIDER,
        report=report,
        data=request.data,
        validation=request.validation,
        model=request.model,
        requested_model=request.requested_model,
        serve_as=serve_as,
    )
