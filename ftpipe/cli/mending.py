"""``prepare --fix`` and ``--quarantine``: a new file from a faulty one, never the old one changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpipe.cli.asked import DatasetRequest
from ftpipe.cli.options import FILE, combine_options
from ftpipe.cli.session import CliContext
from ftpipe.plain import plural, relative_path, sanitize_line

if TYPE_CHECKING:
    from ftpipe.dataset.settings import CheckSettings

mending_options = combine_options(
    click.option("--fix", is_flag=True, help="Write a new file with the safe fixes applied, a diff and a manifest."),
    click.option("--unsafe-fixes", is_flag=True, help="With those, too, that drop or change something."),
    click.option("--quarantine", type=FILE, metavar="FILE", help="Move the lines that would be refused to this file."),
)


def fixes_requested(fix: bool, unsafe_fixes: bool, quarantine: Path | None) -> bool:
    """Whether anything is to be mended."""
    return fix or unsafe_fixes or quarantine is not None


def apply_fixes(
    session: CliContext,
    asked: DatasetRequest,
    rules: CheckSettings,
    folder: Path,
    *,
    fix: bool,
    unsafe_fixes: bool,
    quarantine: Path | None,
) -> DatasetRequest:
    """Write the mended dataset into ``folder`` and return what is asked with it in place of the old one.

    Raises:
        UsageError: The new file would overwrite the old one.
        LocalStateError: A file cannot be written.
    """
    if fix or unsafe_fixes:
        asked = _fixed(session, asked, rules, folder, unsafe=unsafe_fixes)
    if quarantine is not None:
        asked = _quarantine(session, asked, rules, folder, quarantine)
    return asked


def _fixed(
    session: CliContext, asked: DatasetRequest, rules: CheckSettings, folder: Path, *, unsafe: bool
) -> DatasetRequest:
    from ftpipe.dataset.fixes import fix_file

    method = asked.method.value if asked.method else None
    done = fix_file(asked.data, folder / "fixed.jsonl", unsafe=unsafe, settings=rules, method=method)
    session.add(fixes=done.counts, dropped=done.dropped, fixed={"file": done.output, "diff": done.diff})
    counts = ", ".join(f"{code} ×{number:,}" for code, number in done.counts.items()) or "nothing to mend by itself"
    session.print_status(
        f"\nfixed: {counts}" + (f"; {plural(done.dropped, 'record')} left out" if done.dropped else "")
    )
    session.print_status(f"changes are in {sanitize_line(relative_path(done.diff), 300)}")
    return replace(asked, data=done.output.absolute())


def _quarantine(
    session: CliContext, asked: DatasetRequest, rules: CheckSettings, folder: Path, bad: Path
) -> DatasetRequest:
    from ftpipe.dataset.fixes import quarantine
    from ftpipe.stages.validate import failing_lines

    lines = failing_lines(asked.data, target=asked.target, method=asked.method, model=asked.model, settings=rules)
    folder.mkdir(parents=True, exist_ok=True)
    good = folder / "kept.jsonl"
    kept, moved = quarantine(asked.data, lines, good, bad)
    session.add(quarantined={"file": bad, "lines": moved, "kept": kept})
    session.print_status(f"\n{plural(moved, 'line')} moved to {sanitize_line(relative_path(bad), 300)}, {kept:,} kept")
    return replace(asked, data=good.absolute())
