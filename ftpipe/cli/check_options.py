"""Options of the dataset checks, and the check settings from configuration and options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpipe.cli.context import CliContext
from ftpipe.cli.options import OUTPUT_FILE, combine_options
from ftpipe.config import RunConfig
from ftpipe.output_files import open_output
from ftpipe.records import Finding

if TYPE_CHECKING:
    from ftpipe.dataset.check_settings import CheckSettings

FORMATS = ("text", "json", "ndjson", "github", "gitlab", "sarif", "junit", "md")
MACHINE_FORMATS = frozenset({"github", "gitlab", "sarif", "junit", "md"})
"""Formats that hold the findings of all files in one document."""
check_options = combine_options(
    click.option("--select", metavar="CODES", help="Run only these rules: codes or prefixes, such as FT2,FT301."),
    click.option("--ignore", metavar="CODES", help="Skip these rules: codes or prefixes, such as FT8."),
    click.option(
        "--max-findings",
        type=click.IntRange(1),
        metavar="N",
        help="Maximum findings to keep per rule; the counts include all.",
    ),
    click.option(
        "--output-format",
        type=click.Choice(FORMATS),
        default="text",
        show_default=True,
        help="Output format: text, JSON, one finding per line (ndjson), or a report for CI tools.",
    ),
    click.option(
        "--findings",
        type=OUTPUT_FILE,
        metavar="FILE",
        help="Write all findings to this file, one JSON object per line.",
    ),
)


def check_settings(
    config: RunConfig, *, select: str | None = None, ignore: str | None = None, max_findings: int | None = None
) -> CheckSettings:
    """Build the settings of the checks.

    Args:
        config: Its ``[checks]`` and ``[[ignore]]`` tables.
        select: Comma-separated codes or prefixes; replaces the configured ones.
        ignore: As ``select``.
        max_findings: Findings kept per rule; replaces the configured number.

    Raises:
        ConfigError: A key, code or value is unknown; the hint suggests the nearest one.
    """
    from ftpipe.dataset.check_settings import check_codes, settings_from
    from ftpipe.dataset.rules import codes

    settings = settings_from(config.check_values, codes())
    only, without = _codes(select), _codes(ignore)
    check_codes([*(only or ()), *(without or ())], codes())
    return replace(
        settings,
        select=settings.select if only is None else only,
        ignore=settings.ignore if without is None else without,
        max_findings=settings.max_findings if max_findings is None else max_findings,
    )


@contextmanager
def findings_writer(
    context: CliContext, output_format: str, path: Path | None
) -> Iterator[Callable[[Finding], None] | None]:
    """Yield a function that writes each finding as a JSON line to stdout or to a file; ``None`` if neither is wanted.

    Raises:
        UsageError: The file exists.
        LocalStateError: It cannot be written.
    """
    from ftpipe.reports.ci_formats import ndjson_line

    if path is None:
        yield ((lambda finding: context.print_document(ndjson_line(finding))) if output_format == "ndjson" else None)
        return
    with open_output(path, force=context.force, flag="--findings") as file:

        def write(finding: Finding) -> None:
            line = context.redact(ndjson_line(finding))
            file.write(f"{line}\n".encode("ascii"))
            if output_format == "ndjson":
                context.print_document(line)

        yield write
    context.add(findings_file=path)


def _codes(text: str | None) -> tuple[str, ...] | None:
    return tuple(code.strip().upper() for code in text.split(",") if code.strip()) if text is not None else None
