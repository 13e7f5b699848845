"""``ftpipe prepare``: check a dataset, count its tokens, say what training costs, and write what ``train`` takes up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options
from ftpipe.cli.check_options import check_options, check_settings, findings_writer
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import DatasetRequest, provider_for_model, resolve_for_prepare, validate_and_count
from ftpipe.cli.group import Command
from ftpipe.cli.options import FILE, combine_options
from ftpipe.config import Settings
from ftpipe.dataset import prepared
from ftpipe.errors import DatasetError
from ftpipe.formatting import plural, relative_path, sanitize_line
from ftpipe.records import Report
from ftpipe.reports.dataset_summary import cost_lines, dataset_line, not_checked_lines, token_lines, verdict_line

if TYPE_CHECKING:
    from ftpipe.dataset.check_settings import CheckSettings

mending_options = combine_options(
    click.option("--fix", is_flag=True, help="Write a new file with the safe fixes applied, a diff and a manifest."),
    click.option("--unsafe-fixes", is_flag=True, help="With those, too, that drop or change something."),
    click.option("--quarantine", type=FILE, metavar="FILE", help="Move the lines that would be refused to this file."),
)


def fixes_requested(fix: bool, unsafe_fixes: bool, quarantine: Path | None) -> bool:
    """Whether anything is to be mended."""
    return fix or unsafe_fixes or quarantine is not None


def apply_fixes(
    context: CliContext,
    request: DatasetRequest,
    rules: CheckSettings,
    folder: Path,
    *,
    fix: bool,
    unsafe_fixes: bool,
    quarantine: Path | None,
) -> DatasetRequest:
    """Write the mended dataset into ``folder`` and return what is request with it in place of the old one.

    Raises:
        UsageError: The new file would overwrite the old one.
        LocalStateError: A file cannot be written.
    """
    if fix or unsafe_fixes:
        request = _fixed(context, request, rules, folder, unsafe=unsafe_fixes)
    if quarantine is not None:
        request = _quarantine(context, request, rules, folder, quarantine)
    return request


def _fixed(
    context: CliContext, request: DatasetRequest, rules: CheckSettings, folder: Path, *, unsafe: bool
) -> DatasetRequest:
    from ftpipe.dataset.fixes import fix_file

    method = request.method.value if request.method else None
    done = fix_file(request.data, folder / "fixed.jsonl", unsafe=unsafe, settings=rules, method=method)
    context.add(fixes=done.counts, dropped=done.dropped, fixed={"file": done.output, "diff": done.diff})
    counts = ", ".join(f"{code} ×{number:,}" for code, number in done.counts.items()) or "nothing to mend by itself"
    context.print_status(
        f"\nfixed: {counts}" + (f"; {plural(done.dropped, 'record')} left out" if done.dropped else "")
    )
    context.print_status(f"changes are in {sanitize_line(relative_path(done.diff), 300)}")
    return replace(request, data=done.output.absolute())


def _quarantine(
    context: CliContext, request: DatasetRequest, rules: CheckSettings, folder: Path, bad: Path
) -> DatasetRequest:
    from ftpipe.dataset.fixes import quarantine
    from ftpipe.stages.validate import failing_lines

    lines = failing_lines(
        request.data, target=request.target, method=request.method, model=request.model, settings=rules
    )
    folder.mkdir(parents=True, exist_ok=True)
    good = folder / "kept.jsonl"
    kept, moved = quarantine(request.data, lines, good, bad)
    context.add(quarantined={"file": bad, "lines": moved, "kept": kept})
    context.print_status(f"\n{plural(moved, 'line')} moved to {sanitize_line(relative_path(bad), 300)}, {kept:,} kept")
    return replace(request, data=good.absolute())


VERBOSE_PER_RULE = 1000
"""Places shown of each rule under ``--verbose``, where they were kept."""


@click.command(
    cls=Command,
    example="ftpipe prepare data/support_desk/train.jsonl --validation data/support_desk/validation.jsonl --epochs 3",
)
@options.data
@options.validation
@click.option("--test", type=options.FILE, metavar="FILE", help="Held-out file of which nothing may be trained on.")
@click.option(
    "--split",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Set this share aside for validation, for example 0.1.",
)
@options.seed
@options.model
@options.epochs
@options.method
@click.option("--provider", metavar="NAME", help="Whose rules apply; those of openai where not given.")
@click.option("--max-cost", metavar="USD", help="A higher estimate is an error.")
@options.output
@check_options
@mending_options
@click.option("--report", type=options.FILE, metavar="FILE", help="Write a page to look at: report.html.")
@pass_cli_context
def prepare(context: CliContext, /, data: Path | None, split: float | None, **flags: Any) -> None:
    """Check a chat JSONL dataset, count its tokens, and say what training on it costs.

    Every fault is reported in one pass, with line and path. Nothing is sent anywhere and no key is needed. Without
    a provider the rules of OpenAI apply, so that what passes can be trained everywhere. Ends with 1 where the
    dataset would be refused.
    """
    settings = context.settings(settings_of(flags))
    rules = check_settings(settings.config, **{name: flags[name] for name in ("select", "ignore", "max_findings")})
    more: dict[str, Any] = {"rules": rules, "test": flags["test"], "max_cost": settings.config.max_cost}
    request, form = resolve_for_prepare(settings, given=data), flags["output_format"]
    with findings_writer(context, form, flags["findings"]) as on_finding:
        report = validate_and_count(context, settings, request, **more, on_finding=on_finding)
    mending = {name: flags[name] for name in ("fix", "unsafe_fixes", "quarantine")}
    source, folder = report.dataset, settings.config.output or prepared.default_dir(request.data, report.dataset.sha256)
    if fixes_requested(**mending):
        if form == "text":
            show(context, report)
        request = apply_fixes(context, request, rules, folder, **mending)
        report = validate_and_count(context, settings, request, **more)
    show(context, report, form=form)
    if flags["report"] is not None:
        write_page(context, settings, request, report, flags["report"])
    refuse_errors(report, request)
    if split is not None:
        report = split_off(context, settings, request, share=split, folder=folder, **more)
    tell(context, settings, prepared.write(report, folder, source=source, model=request.model), report)


def write_page(context: CliContext, settings: Settings, request: DatasetRequest, report: Report, path: Path) -> None:
    """Write the report as one self-contained HTML page."""
    from ftpipe.catalog.training_prices import PriceTable
    from ftpipe.reports.dataset_html import html
    from ftpipe.stages.count import cost_by_model

    prices = PriceTable.load(settings.config.prices, target=request.target)
    page = html(report, cost_by_model(report, epochs=request.epochs, prices=prices))
    path.write_text(page, encoding="utf-8", errors="replace")
    context.add(report=path)
    context.print_status(f"a page to look at: {sanitize_line(relative_path(path), 300)}")


def settings_of(flags: Mapping[str, Any]) -> dict[str, object]:
    """Flags as settings: dotted key → value, ``None`` where one was not given."""
    names = ("provider", "model", "validation", "suffix", "seed", "method", "max_cost", "output")
    tuned = {"epochs": "n_epochs"} | {name: name for name in ("batch_size", "learning_rate_multiplier", "beta")}
    values = {name: flags.get(name) for name in names}
    return values | {f"hyperparameters.{key}": flags.get(name) for name, key in tuned.items()}


def show(context: CliContext, report: Report, *, form: str = "text") -> None:
    """Put the report on stdout: as text, in a machine's format, or into the document."""
    from ftpipe.reports.ci_formats import FORMATS
    from ftpipe.reports.findings import MAX_SHOWN_PER_RULE, finding_lines

    context.json = context.json or form == "json"
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
    if form not in ("text", "json"):
        context.print_result(FORMATS[form]([report]).rstrip("\n") if form in FORMATS else ())
        return
    context.print_result(dataset_line(report.dataset, context.style))
    if report.validation:
        context.print_result(dataset_line(report.validation, context.style))
    found = finding_lines(report, context.style, per_rule=VERBOSE_PER_RULE if context.verbose else MAX_SHOWN_PER_RULE)
    sections = [found, not_checked_lines(report, context.style), token_lines(report, context.style)]
    if report.cost:
        sections.append(cost_lines(report.cost, context.style))
    for section in filter(None, sections):
        context.print_result(["", *section])
    context.print_result(["", verdict_line(report, context.style)])


def refuse_errors(report: Report, request: DatasetRequest) -> None:
    """End here where the dataset would be refused.

    Raises:
        DatasetError: The report has errors.
    """
    if report.ok:
        return
    code = next((finding.code for finding in report.findings if finding.severity == "error"), "")
    many = "1 error" if report.summary.errors == 1 else f"{report.summary.errors:,} errors"
    raise DatasetError(
        f"{relative_path(request.data)}: {many}", f"mend the file; `ftpipe explain {code}` says how", report
    )


def split_off(
    context: CliContext, settings: Settings, request: DatasetRequest, *, share: float, folder: Path, **more: Any
) -> Report:
    """Split the file into ``folder`` and check both halves; ``more`` is passed on to ``validate_and_count``."""
    from ftpipe.dataset.split import split

    train, validation, _ = split(request.data, fraction=share, seed=settings.config.seed or 0, output_dir=folder)
    halves = DatasetRequest(**{**vars(request), "data": train, "validation": validation})
    report = validate_and_count(context, settings, halves, **more)
    context.print_status("")
    show(context, report)
    refuse_errors(report, halves)
    return report


def tell(context: CliContext, settings: Settings, done: prepared.PreparedDataset, report: Report) -> None:
    """Say where the prepared files lie and what the next command is."""
    following = " ".join(["ftpipe train", *_repeated(context, settings)])
    context.add(
        prepared={"folder": done.folder, "train": done.train, "validation": done.validation, "manifest": done.manifest},
        next=following,
    )
    if report.cost and report.cost.expected:
        context.print_status(f"or {context.style_err('ok', 'free')} on your own machine: ftpipe train")
    context.print_status(f"written to {sanitize_line(relative_path(done.folder), 300)}")
    context.print_status(f"{context.style_err('bold', 'Next:')} {following}")


def _repeated(context: CliContext, settings: Settings) -> list[str]:
    """The flags of this call that the next one needs as well; a named hosted model brings its provider along."""
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
