"""``ftpipe prepare``: check a dataset, count its tokens, estimate the cost, and write the files that ``train`` uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.check_options import check_options, check_settings, findings_writer
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import (
    LOCAL_PROVIDER,
    DatasetRequest,
    provider_for_model,
    remember_provider,
    require_dataset,
    resolve_for_prepare,
    show_last_choice,
    validate_and_count,
)
from ftpipe.cli.group import Command
from ftpipe.config import Settings
from ftpipe.dataset import prepared
from ftpipe.errors import DatasetError, UsageError
from ftpipe.formatting import plural, relative_path, sanitize_line
from ftpipe.output_files import check_outputs, open_output
from ftpipe.paths import is_in_state_dir
from ftpipe.records import Report
from ftpipe.reports.dataset_summary import cost_lines, dataset_line, not_checked_lines, token_lines, verdict_line

if TYPE_CHECKING:
    from ftpipe.dataset.check_settings import CheckSettings
    from ftpipe.dataset.fixes import FixResult
    from ftpipe.dataset.split import SplitSizes
    from ftpipe.records.token_mask import TokenMask

VERBOSE_PER_RULE = 1000
"""Findings shown per rule under ``--verbose``."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Options of ``prepare`` and ``train`` that override the configuration; ``None`` if not given."""

    data: Path | None = None
    validation: Path | None = None
    seed: str | None = None
    model: str | None = None
    epochs: str | None = None
    method: str | None = None
    provider: str | None = None
    max_cost: str | None = None

    def as_settings(self) -> dict[str, object]:
        """Return the options as settings: dotted key → value."""
        names = ("provider", "model", "validation", "seed", "method", "max_cost")
        return {name: getattr(self, name) for name in names} | {"hyperparameters.n_epochs": self.epochs}


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(DatasetOptions):
    """Options of ``ftpipe prepare``."""

    holdout: Path | None = None
    split: float | None = None
    output: Path | None = None
    select: str | None = None
    ignore: str | None = None
    max_findings: int | None = None
    output_format: str = "text"
    findings: Path | None = None
    fix: bool = False
    unsafe_fixes: bool = False
    quarantine: Path | None = None
    report: Path | None = None
    show_mask: int | None = None

    def as_settings(self) -> dict[str, object]:
        """Return the options as settings: dotted key → value."""
        return super().as_settings() | {"output": self.output}

    @property
    def output_files(self) -> list[tuple[str, Path]]:
        """The files that are written outside of the output folder, each with its flag."""
        files = (("--findings", self.findings), ("--quarantine", self.quarantine), ("--report", self.report))
        return [(flag, path) for flag, path in files if path is not None]

    @property
    def changes_data(self) -> bool:
        """Whether a changed copy of the dataset is written."""
        return self.fix or self.unsafe_fixes or self.quarantine is not None


@click.command(
    cls=Command,
    groups={
        "Files": ("validation", "holdout", "split", "seed", "output", "force"),
        "Checks": ("provider", "model", "method", "select", "ignore", "max_findings"),
        "Cost": ("epochs", "max_cost"),
        "Fixes": ("fix", "unsafe_fixes", "quarantine"),
        "Reports": ("output_format", "findings", "report", "show_mask"),
    },
    example="ftpipe prepare data/support_desk/train.jsonl --validation data/support_desk/validation.jsonl --epochs 3",
)
@shared.data
@shared.validation
@click.option(
    "--holdout", type=shared.FILE, metavar="FILE", help="Test file; a prompt that is also in DATA is a finding."
)
@click.option(
    "--split",
    type=shared.NumberRange(0, 1, min_open=True, max_open=True),
    metavar="FRACTION",
    help="Split off this fraction of DATA for validation, for example 0.1.",
)
@shared.seed
@shared.model
@shared.epochs
@shared.method
@shared.rules_of
@click.option("--max-cost", metavar="USD", help="Report a higher cost estimate as an error.")
@shared.output
@check_options
@click.option("--fix", is_flag=True, help="Write a copy with the safe fixes applied, a diff and a manifest.")
@click.option("--unsafe-fixes", is_flag=True, help="Also apply fixes that drop or change content.")
@click.option(
    "--quarantine",
    type=shared.OUTPUT_FILE,
    metavar="FILE",
    help="Write lines with errors to this file and continue without them; the rest is checked again.",
)
@click.option("--report", type=shared.OUTPUT_FILE, metavar="FILE", help="Write an HTML report.")
@click.option(
    "--show-mask",
    is_flag=False,
    flag_value=shared.RowLine.FIRST_ROW,
    type=shared.RowLine(),
    metavar="[LINE]",
    help="Show which tokens of a row are trained: of this line, or of the first row.",
)
@pass_cli_context
def prepare(context: CliContext, /, **params: Any) -> None:
    """Check a chat JSONL dataset, count its tokens, and estimate the training cost.

    All problems are reported in one pass, with line and path. Nothing is sent anywhere, and no key is needed. The rules
    and the price are those of the provider that `ftpipe train` would use: the configured one, else the one chosen last
    with --provider, else this machine. --epochs is only for the estimate: give it to `ftpipe train` again. The exit
    code is 1 if the dataset has errors.
    """
    options = PrepareOptions(**params)
    settings = context.settings(options.as_settings())
    rules = check_settings(
        settings.config, select=options.select, ignore=options.ignore, max_findings=options.max_findings
    )
    check = partial(
        validate_and_count, context, settings, rules=rules, holdout=options.holdout, max_cost=settings.config.max_cost
    )
    request = resolve_for_prepare(settings, data=options.data)
    show_last_choice(context, settings, request.provider)
    if options.split is not None:
        if options.validation is not None:
            raise UsageError("--split makes the validation file, so it excludes --validation", "leave out one of them")
        request = replace(request, validation=None)
    inputs = [path for path in (request.data, request.validation, options.holdout) if path]
    if options.holdout is not None:
        require_dataset(options.holdout)
    check_outputs(options.output_files, inputs=inputs, force=context.force)
    with findings_writer(context, options.output_format, options.findings) as on_finding:
        report = check(request, on_finding=on_finding)
    source = report.dataset
    work_folder = prepared.default_dir(request.data, source.sha256)
    folder = settings.config.output or work_folder
    is_copied = not options.changes_data and options.split is None
    prepared.check_folder(
        folder, request.data if is_copied else None, request.validation, inputs=inputs, force=context.force
    )
    if options.changes_data:
        before, request = request, apply_fixes(context, request, rules, folder, work_folder, options)
        report = check(request) if request != before else report
    is_text = options.output_format == "text"
    if not (context.quiet and is_text and options.split is not None and report.ok):  # the halves' report follows
        show(context, report, output_format=options.output_format)
    if options.show_mask is not None:
        show_mask(context, request, options.show_mask, is_text=is_text)
    show_dates(context, settings, request)
    if options.report is not None:
        write_page(context, settings, request, report, options.report, options.show_mask)
    require_no_errors(
        report,
        request,
        after_quarantine=options.quarantine is not None,
        alternative=after_changes(report, request, options),
    )
    if options.split is not None:
        request, _ = split_data(request, options.split, settings.config.seed or 0, work_folder / "split")
        report = check_halves(context, request, check)
    done = prepared.write(report, folder, source=source, model=request.model, inputs=inputs, force=context.force)
    show_next(context, settings, done, report)


def show_dates(context: CliContext, settings: Settings, request: DatasetRequest) -> None:
    """Say until when the provider accepts jobs, if that is near or over."""
    from ftpipe.pipeline.preflight import dates_notice
    from ftpipe.providers.profiles import find_profile

    profile = find_profile(request.provider or LOCAL_PROVIDER, settings.config.providers)
    if notice := dates_notice(profile, today=datetime.now(UTC).date()):
        context.add(notice=notice)
        context.print_status(f"{context.style_err('warning', 'note:')} {notice}")


def apply_fixes(
    context: CliContext,
    request: DatasetRequest,
    rules: CheckSettings,
    folder: Path,
    work_folder: Path,
    options: PrepareOptions,
) -> DatasetRequest:
    """Write the fixed dataset into ``folder``, what remains of it into ``work_folder``, and return the request for it.

    Raises:
        UsageError: The new file would overwrite the old one.
        LocalStateError: A file cannot be written.
    """
    if options.fix or options.unsafe_fixes:
        request = _fix(context, request, rules, folder, unsafe=options.unsafe_fixes)
    if options.quarantine is not None:
        request = _quarantine(context, request, rules, work_folder, options.quarantine)
    return request


def _fix(
    context: CliContext, request: DatasetRequest, rules: CheckSettings, folder: Path, *, unsafe: bool
) -> DatasetRequest:
    from ftpipe.dataset.fixes import fix_file

    method = request.method.value if request.method else None
    may_replace = context.force or is_in_state_dir(folder)
    fix = partial(
        fix_file, unsafe=unsafe, settings=rules, method=method, force=may_replace, target=request.target,
        model=request.model, max_length=request.max_length,
    )  # fmt: skip
    result = fix(request.data, folder / "fixed.jsonl")
    context.add(fixes=result.counts, dropped=result.dropped)
    done = {"fixed": result} if _show_fixes(context, result) else {}
    data = result.output.absolute() if done else request.data
    validation = request.validation
    if validation is not None:
        other = fix(validation, folder / "fixed-validation.jsonl", training=data)
        if _show_fixes(context, other, of=f" in {sanitize_line(validation.name, 80)}"):
            context.add(validation_fixes=other.counts, validation_dropped=other.dropped)
            done["fixed_validation"] = other
            validation = other.output.absolute()
    for name, fixed in done.items():
        removed = {"removed": {"file": fixed.sidecar, "count": fixed.removed}} if fixed.sidecar else {}
        context.add(**{name: {"file": fixed.output, "diff": fixed.diff, **removed}})
    if not done:
        context.print_status("nothing to fix")
    return replace(request, data=data, validation=validation)


def _show_fixes(context: CliContext, done: FixResult, *, of: str = "") -> bool:
    """Show what was fixed; if it was nothing, delete the copy and return False."""
    if not done.counts and not done.dropped:
        for path in (done.output, done.diff, done.manifest):
            path.unlink()
        return False
    counts = ", ".join(f"{code} ×{number:,}" for code, number in done.counts.items())
    dropped = f"; {plural(done.dropped, 'record')} dropped" if done.dropped else ""
    context.print_status(f"fixed{of}: {counts}{dropped}")
    if done.sidecar:
        kept = sanitize_line(relative_path(done.sidecar), 300)
        context.print_status(f"removed: {plural(done.removed, 'entry', 'entries')}, kept in {kept}")
    context.print_status(f"see the changes in {sanitize_line(relative_path(done.diff), 300)}")
    return True


def _quarantine(
    context: CliContext, request: DatasetRequest, rules: CheckSettings, work_folder: Path, bad: Path
) -> DatasetRequest:
    from ftpipe.dataset.fixes import quarantine
    from ftpipe.stages.validate import failing_lines

    lines = failing_lines(
        request.data,
        target=request.target,
        method=request.method,
        model=request.model,
        settings=rules,
        max_length=request.max_length,
    )
    good = work_folder / "good.jsonl"
    good.unlink(missing_ok=True)
    remaining, moved = quarantine(request.data, lines, good, bad, force=context.force)
    context.add(quarantined={"file": bad, "lines": moved, "remaining": remaining})
    path = sanitize_line(relative_path(bad), 300)
    context.print_status(f"{plural(moved, 'line')} moved to {path}, {plural(remaining, 'example')} remaining")
    return replace(request, data=good.absolute())


def show_mask(context: CliContext, request: DatasetRequest, line: int, *, is_text: bool) -> None:
    """Show which tokens of a row are trained.

    Raises:
        UsageError: There is no such line.
        DatasetError: The row cannot be shown.
    """
    from ftpipe.reports.token_mask import mask_lines

    masks = masks_of(request, line)
    context.add(masks=masks)
    if is_text:
        for mask in masks:
            context.print_result(["", *mask_lines(mask, context.style)])


def masks_of(request: DatasetRequest, line: int | None) -> tuple[TokenMask, ...]:
    """The tokens of a row; line 0 or ``None`` stands for the first row."""
    from ftpipe.dataset.token_mask import token_masks

    return token_masks(
        request.data, line or None, target=request.target, model=request.model, max_length=request.max_length
    )


def write_page(
    context: CliContext,
    settings: Settings,
    request: DatasetRequest,
    report: Report,
    path: Path,
    mask_line: int | None = None,
) -> None:
    """Write the report as one self-contained HTML page."""
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.reports.dataset_html import html
    from ftpipe.stages.count import cost_by_model

    prices = PriceTable.load(settings.config.prices, target=request.target)
    masks: tuple[TokenMask, ...] = ()
    with suppress(DatasetError):  # no row that can be shown; the findings say why
        masks = masks_of(request, mask_line)
    page = html(report, cost_by_model(report, epochs=request.epochs, prices=prices), masks)
    with open_output(path, force=context.force, flag="--report") as file:
        file.write(page.encode("utf-8", "replace"))
    context.add(report=path)
    context.print_status(f"HTML report: {sanitize_line(relative_path(path), 300)}")


def show(context: CliContext, report: Report, *, output_format: str = "text") -> None:
    """Write the report to stdout: as text, in another format, or into the JSON document."""
    from ftpipe.reports.ci_formats import FORMATS
    from ftpipe.reports.findings import MAX_SHOWN_PER_RULE, finding_lines

    context.json = context.json or output_format == "json"
    context.add(
        dataset=report.dataset,
        validation=report.validation,
        target=report.target,
        method=report.method,
        findings=report.findings,
        summary=report.summary,
        not_checked=report.not_checked,
        tokens=report.tokens,
        validation_tokens=report.validation_tokens,
        cost=report.cost,
    )
    if output_format not in ("text", "json"):
        if output_format in FORMATS:
            context.print_document(FORMATS[output_format]([report]).rstrip("\n"))
        return
    if _other_format(report):
        return  # the error says all there is to say
    context.print_result(dataset_line(report.dataset, context.style))
    if report.validation:
        context.print_result(dataset_line(report.validation, context.style))
    findings = finding_lines(
        report, context.style, per_rule=VERBOSE_PER_RULE if context.verbose else MAX_SHOWN_PER_RULE
    )
    sections = [findings, not_checked_lines(report, context.style), token_lines(report, context.style)]
    if report.cost:
        sections.append(cost_lines(report.cost, context.style))
    for section in filter(None, sections):
        context.print_result(["", *section])
    context.print_result(["", verdict_line(report, context.style)])


def after_changes(report: Report, request: DatasetRequest, options: PrepareOptions) -> str:
    """For the hint after fixes: what unsafe fixes could do, and which file the lines are those of."""
    if not options.changes_data:
        return ""
    fixable = {f.code for f in report.findings if f.severity == "error" and f.fix and f.fix.kind == "unsafe"}
    number = 0 if options.unsafe_fixes else sum(report.summary.counts.get(code, 0) for code in fixable)
    more = f"; {number:,} more with --unsafe-fixes" if number else ""
    return f"{more}; the lines are those of {relative_path(request.data)}"


def _other_format(report: Report) -> str:
    """What a file without a single example is, if ``convert`` reads it; else empty."""
    if report.ok or report.dataset.examples:
        return ""
    from ftpipe.dataset.diagnosis import conversion_command, format_fault
    from ftpipe.dataset.sniffer import sniff

    path = report.dataset.path
    return format_fault(sniff(path)) if conversion_command(path) else ""


def require_no_errors(
    report: Report, request: DatasetRequest, *, after_quarantine: bool = False, alternative: str = ""
) -> None:
    """Raise if the dataset has errors; the hint also names the alternative.

    Raises:
        DatasetError: The report has errors.
    """
    if report.ok:
        return
    from ftpipe.dataset.diagnosis import conversion_command

    code = next((finding.code for finding in report.findings if finding.severity == "error"), "")
    files = [path for path in (request.data, request.validation) if path]
    conversion = next((command for path in files if (command := conversion_command(relative_path(path)))), "")
    remaining = ", also without the lines that were moved" if after_quarantine else ""
    fault = _other_format(report)
    raise DatasetError(
        f"{relative_path(request.data)}: {fault or plural(report.summary.errors, 'error') + remaining}",
        conversion or f"fix the file; `ftpipe explain {code}` shows how{alternative}",
        report,
    )


def split_data(request: DatasetRequest, fraction: float, seed: int, folder: Path) -> tuple[DatasetRequest, SplitSizes]:
    """Split the dataset into two files in ``folder``; the request for both, and their sizes.

    Raises:
        DatasetError: The data cannot be split.
    """
    from ftpipe.dataset.split import split

    train, validation, sizes = split(request.data, fraction=fraction, seed=seed, output_dir=folder, force=True)
    return replace(request, data=train, validation=validation), sizes


def check_halves(context: CliContext, request: DatasetRequest, check: Callable[[DatasetRequest], Report]) -> Report:
    """Check and show both files of a split.

    Raises:
        DatasetError: One of them has errors.
    """
    report = check(request)
    context.print_status("")
    show(context, report)
    require_no_errors(report, request)
    return report


def show_next(context: CliContext, settings: Settings, done: prepared.PreparedDataset, report: Report) -> None:
    """Show where the prepared files are, and the next command."""
    command = " ".join(["ftpipe train", *_options_to_repeat(context, settings)])
    context.add(
        prepared={"folder": done.folder, "train": done.train, "validation": done.validation, "manifest": done.manifest},
        next=command,
    )
    context.print_status(f"written to {sanitize_line(relative_path(done.folder), 300)}")
    free = f"{context.style_err('ok', 'free')} on your own machine"
    if report.target == LOCAL_PROVIDER and settings.config.provider is None:
        context.print_status(f"training is {free}; for a provider's rules and price add --provider openai")
    elif report.cost and report.cost.expected:
        context.print_status(f"{free}: ftpipe train --provider {LOCAL_PROVIDER}")
    remember_provider(settings)
    context.print_next(command)


def _options_to_repeat(context: CliContext, settings: Settings) -> list[str]:
    """The options that ``train`` needs as well; for a hosted model also its provider."""
    config, origins = settings.config, settings.origins
    provider = config.provider if origins.get("provider") == "--provider" else None
    model = config.model if origins.get("model") == "--model" else None
    if model and config.provider is None:
        provider = provider_for_model(settings, model)
    values = {
        "--config": context.config_path,
        "--provider": provider,
        "--model": model,
        "--epochs": config.hyperparameters.n_epochs if "hyperparameters.n_epochs" in origins else None,
        "--seed": config.seed if origins.get("seed") == "--seed" else None,
    }
    return [f"{flag} {quote(str(value))}" for flag, value in values.items() if value is not None]
