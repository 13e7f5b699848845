"""``ftpipe validate``: the checks alone, on any number of files, for hooks and CI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options
from ftpipe.cli.check_options import MACHINE_FORMATS, check_options, check_settings, findings_writer
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import resolve_for_prepare
from ftpipe.cli.group import Command
from ftpipe.cli.output.progress import file_progress, first_finding_printer
from ftpipe.errors import DatasetError
from ftpipe.formatting import plural
from ftpipe.records import Finding, Report
from ftpipe.reports.dataset_summary import dataset_line, not_checked_lines, verdict_line

if TYPE_CHECKING:
    from ftpipe.config import Settings
    from ftpipe.dataset.check_settings import CheckSettings


@click.command(
    cls=Command,
    example="ftpipe validate data/*.jsonl\nftpipe validate train.jsonl --output-format github --ignore FT8",
)
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("--provider", metavar="NAME", help="Whose rules apply; those of openai where not given.")
@options.model
@options.method
@check_options
@pass_cli_context
def validate(context: CliContext, /, files: tuple[Path, ...], output_format: str, **flags: Any) -> None:
    """Check FILES for everything that would be refused or is worth a warning. Nothing is written or sent.

    Ends with 1 where one of them would be refused.
    """
    settings = context.settings({name: flags.pop(name) for name in ("provider", "model", "method")})
    with findings_writer(context, output_format, flags.pop("findings")) as on_finding:
        rules = check_settings(settings.config, **flags)
        context.json = context.json or output_format == "json"
        reports = [look(context, settings, rules, path, output_format, on_finding) for path in files]
    if output_format in MACHINE_FORMATS:
        context.print_result(render(output_format, reports))
    context.add(files=[fields(report) for report in reports])
    bad = [report for report in reports if not report.ok]
    if bad:
        raise DatasetError(f"{plural(len(bad), 'file')} would be refused", "`ftpipe explain CODE` says how to mend it")


def render(form: str, reports: list[Report]) -> str:
    """All files together in a machine's format."""
    from ftpipe.reports.ci_formats import FORMATS

    return FORMATS[form](reports).rstrip("\n")


def look(
    context: CliContext,
    settings: Settings,
    rules: CheckSettings,
    path: Path,
    form: str,
    on_finding: Callable[[Finding], None] | None,
) -> Report:
    """Check one file; as text, put what was found on stdout."""
    from ftpipe.reports.findings import finding_lines
    from ftpipe.stages.validate import ScanObserver
    from ftpipe.stages.validate import validate as check

    request = resolve_for_prepare(settings, given=path)
    with file_progress(context, "checking", path) as progress:
        report = check(
            request.data,
            target=request.target,
            method=request.method,
            model=request.model,
            settings=rules,
            observer=ScanObserver(progress, first_finding_printer(context, request.data), on_finding),
        )
    if form == "text":
        found = finding_lines(report, context.style) + not_checked_lines(report, context.style)
        context.print_result(
            [dataset_line(report.dataset, context.style), *found, verdict_line(report, context.style), ""]
        )
    return report


def fields(report: Report) -> dict[str, object]:
    """One file in the document."""
    return {
        "ok": report.ok,
        "target": report.target,
        "method": report.method,
        "dataset": report.dataset,
        "findings": report.findings,
        "summary": report.summary,
        "not_checked": report.not_checked,
    }
