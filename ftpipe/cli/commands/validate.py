"""``ftpipe validate``: only the checks, on any number of files, for hooks and CI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.check_options import MACHINE_FORMATS, check_options, check_settings, findings_writer
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import first_finding_printer, resolve_for_prepare
from ftpipe.cli.group import Command
from ftpipe.cli.output.progress import file_progress
from ftpipe.errors import DatasetError
from ftpipe.formatting import plural, relative_path
from ftpipe.records import Finding, Report
from ftpipe.reports.dataset_summary import dataset_line, not_checked_lines, verdict_line

if TYPE_CHECKING:
    from ftpipe.config import Settings
    from ftpipe.dataset.check_settings import CheckSettings


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """Options of ``ftpipe validate``."""

    files: tuple[Path, ...]
    provider: str | None = None
    model: str | None = None
    method: str | None = None
    select: str | None = None
    ignore: str | None = None
    max_findings: int | None = None
    output_format: str = "text"
    findings: Path | None = None


@click.command(
    cls=Command,
    example="ftpipe validate data/*.jsonl\nftpipe validate train.jsonl --output-format github --ignore FT8",
)
@click.argument("files", nargs=-1, required=True, type=shared.FILE)
@shared.rules_of
@shared.model
@shared.method
@check_options
@pass_cli_context
def validate(context: CliContext, /, **params: Any) -> None:
    """Check FILES for errors and warnings. Nothing is written or sent.

    The exit code is 1 if one of the files has errors.
    """
    options = ValidateOptions(**params)
    settings = context.settings({"provider": options.provider, "model": options.model, "method": options.method})
    rules = check_settings(
        settings.config, select=options.select, ignore=options.ignore, max_findings=options.max_findings
    )
    context.json = context.json or options.output_format == "json"
    with findings_writer(context, options.output_format, options.findings) as on_finding:
        reports = [
            check_file(context, settings, rules, path, options.output_format, on_finding) for path in options.files
        ]
    if options.output_format in MACHINE_FORMATS:
        context.print_document(render(options.output_format, reports))
    context.add(files=[document_fields(report) for report in reports])
    failed = [report for report in reports if not report.ok]
    if failed:
        from ftpipe.dataset.diagnosis import conversion_command

        code = next((finding.code for finding in failed[0].findings if finding.severity == "error"), "CODE")
        path = failed[0].dataset.path
        raise DatasetError(
            f"{plural(len(failed), 'file has', 'files have')} errors",
            conversion_command(relative_path(path)) or f"`ftpipe explain {code}` shows how to fix them",
        )


def render(output_format: str, reports: list[Report]) -> str:
    """Render all files as one document in a CI format."""
    from ftpipe.reports.ci_formats import FORMATS

    return FORMATS[output_format](reports).rstrip("\n")


def check_file(
    context: CliContext,
    settings: Settings,
    rules: CheckSettings,
    path: Path,
    output_format: str,
    on_finding: Callable[[Finding], None] | None,
) -> Report:
    """Check one file; in text format, also write its findings to stdout."""
    from ftpipe.reports.findings import finding_lines
    from ftpipe.stages.validate import ScanObserver
    from ftpipe.stages.validate import validate as validate_dataset

    request = resolve_for_prepare(settings, data=path)
    with file_progress(context, "checking", path) as progress:
        report = validate_dataset(
            request.data,
            target=request.target,
            method=request.method,
            model=request.model,
            settings=rules,
            observer=ScanObserver(progress, first_finding_printer(context, request.data), on_finding),
        )
    if output_format == "text":
        findings = finding_lines(report, context.style) + not_checked_lines(report, context.style)
        context.print_result(
            [dataset_line(report.dataset, context.style), *findings, verdict_line(report, context.style), ""]
        )
    return report


def document_fields(report: Report) -> dict[str, object]:
    """Return the fields of one file in the JSON document."""
    return {
        "ok": report.ok,
        "target": report.target,
        "method": report.method,
        "dataset": report.dataset,
        "findings": report.findings,
        "summary": report.summary,
        "not_checked": report.not_checked,
    }
