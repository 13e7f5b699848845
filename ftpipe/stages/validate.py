"""Stage 1: check a dataset against everything that its target asks for, and count its tokens on the way."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ftpipe.catalog.training_prices import PriceTable
from ftpipe.dataset.check_settings import CheckSettings, check_codes, did_you_mean
from ftpipe.dataset.duplicates.exact import overlap
from ftpipe.dataset.duplicates.near import NOT_CHECKED, lacks_package, near_duplicates, should_check_near_duplicates
from ftpipe.dataset.formats import METHOD_OF
from ftpipe.dataset.histograms import build_histograms
from ftpipe.dataset.rules import codes
from ftpipe.dataset.rules.base import TARGETS
from ftpipe.dataset.scan.analyze import DatasetAnalysis, analyze_file, quiet, run_file_rules
from ftpipe.dataset.scan.findings import FindingSpool, OnFinding, finding_of
from ftpipe.errors import UsageError
from ftpipe.records import DatasetHistograms, Method, Report, Summary

__all__ = ["CheckSettings", "compute_histograms", "failing_lines", "validate"]


def validate(
    path: Path,
    *,
    target: str = "openai",
    method: Method | str | None = None,
    model: str = "",
    validation: Path | None = None,
    test: Path | None = None,
    settings: CheckSettings | None = None,
    today: dt.date | None = None,
    for_job: bool = False,
    on_progress: Callable[[int, int], None] = quiet,
    on_finding: OnFinding | None = None,
    on_first: OnFinding | None = None,
) -> Report:
    """Check a dataset, and the validation file that goes with it.

    Args:
        path: The training file.
        target: Whose rules: ``openai``, ``azure``, ``nebius`` or ``local``.
        method: ``supervised``, ``dpo`` or ``reinforcement``; ``None`` takes what the file's format is made for.
        model: Base model; decides encoding, token limit and shutdown date.
        validation: The validation file.
        test: A held-out test file that must not leak into the training file.
        settings: What to select, ignore and weigh.
        today: For shutdown dates; ``None`` for the current day.
        for_job: Also ask for what only a job needs, such as a validation file in reinforcement.
        on_progress: Told bytes done and bytes in all.
        on_finding: Told every finding, also those beyond the ones that the report keeps, when all were found.
        on_first: Told the first error or warning of the training file as soon as it is seen.

    Returns:
        The report, with the token figures of both files; ``count`` adds the cost.

    Raises:
        UsageError: A file does not exist, or target, method or a rule code is unknown.
        LocalStateError: A file cannot be read.
    """
    chosen = replace(settings or CheckSettings(), every=on_finding is not None)
    check_codes((*chosen.select, *chosen.ignore), codes())
    if target not in TARGETS:
        raise UsageError(f"Unknown target {target!r}.", did_you_mean(target, TARGETS))
    wanted = _method(method)
    day = today or dt.date.today()
    spills = (FindingSpool(), FindingSpool()) if on_finding else (None, None)
    found = analyze_file(
        Path(path), target=target, method=wanted, model=model, settings=chosen, today=day, on_progress=on_progress,
        spill=spills[0], on_first=on_first, for_job=for_job, has_validation=validation is not None,
    )  # fmt: skip
    held: DatasetAnalysis | None = None
    if validation is not None:
        held = _held_out(found, Path(validation), wanted, spills[1])
    if test is not None:
        found.statistics.leaks = _leaks(found, Path(test))
    run_file_rules(found)
    if on_finding is not None:
        _hand_on([found, held], spills, on_finding)
    return _report(found, held, target, wanted, model)


def _held_out(
    found: DatasetAnalysis, validation: Path, method: str | None, spill: FindingSpool | None
) -> DatasetAnalysis:
    """The survey of the validation file, compared with the training file."""
    file = found.statistics.file
    held = analyze_file(
        validation, target=file.target, method=method or METHOD_OF[file.format], model=file.model,
        settings=file.settings, today=file.today, role="validation", spill=spill,
    )  # fmt: skip
    held.statistics.overlap = overlap(found.prints, held.prints)
    held.statistics.train_examples = found.statistics.examples
    held.statistics.near_overlap = _near(found.dataset.path, validation, found)
    run_file_rules(held)
    return held


def _hand_on(
    files: Sequence[DatasetAnalysis | None], spills: Sequence[FindingSpool | None], on_finding: OnFinding
) -> None:
    for found, spill in zip(files, spills, strict=True):
        if found is not None and spill is not None:
            spill.append(found.part.tally)
            spill.replay(found.part.tally, found.statistics.file.name, on_finding)
        if spill is not None:
            spill.close()


def failing_lines(
    path: Path, *, target: str = "openai", method: Method | str | None = None, model: str = "",
    settings: CheckSettings | None = None, today: dt.date | None = None,
) -> set[int]:  # fmt: skip
    """Every line with an error, for ``ftpipe.dataset.fixes.quarantine``; arguments and errors as for ``validate``."""
    found = analyze_file(
        Path(path), target=target, method=_method(method), model=model, settings=settings or CheckSettings(),
        today=today or dt.date.today(), collect_lines=True,
    )  # fmt: skip
    return set().union(*(found.part.tally.lines or {}).values())


def _near(path: Path, validation: Path, found: DatasetAnalysis) -> list[tuple[int, int, float]]:
    """Near copies of training records in the validation file, where that is quick or asked for."""
    file, settings = found.statistics.file, found.statistics.file.settings
    if not settings.wants("FT704"):
        return []
    if lacks_package(settings.near_duplicates, file.bytes):
        found.statistics.not_checked = (NOT_CHECKED,)
        return []
    if not should_check_near_duplicates(settings.near_duplicates, file.bytes):
        return []
    return [(line, other, alike) for _, line, other, alike in near_duplicates(path, validation)]


def _leaks(found: DatasetAnalysis, test: Path) -> list[tuple[int, int, str]]:
    file = found.statistics.file
    other = analyze_file(
        test, target=file.target, method=file.method, model=file.model, settings=file.settings, today=file.today
    )
    return overlap(found.prints, other.prints)


def _method(method: Method | str | None) -> str | None:
    if method is None:
        return None
    try:
        return Method(method).value
    except ValueError as exc:
        raise UsageError(f"Unknown method {method!r}.", did_you_mean(str(method), [m.value for m in Method])) from exc


def _report(
    found: DatasetAnalysis, held: DatasetAnalysis | None, target: str, method: str | None, model: str
) -> Report:
    files = [found] if held is None else [found, held]
    findings = [
        finding_of(item, one.statistics.file.name)
        for one in files
        for kept in one.part.tally.kept.values()
        for item in kept
    ]
    order = {one.statistics.file.name: place for place, one in enumerate(files)}
    findings.sort(key=lambda f: (order[f.file], f.line or 0, f.code))
    return Report(
        dataset=found.dataset,
        validation=held.dataset if held else None,
        target=target,
        method=Method(method or METHOD_OF[found.statistics.file.format]),
        model=model,
        findings=tuple(findings),
        summary=summary_of(files),
        not_checked=tuple(dict.fromkeys(text for one in files for text in one.statistics.not_checked)),
        tokens=found.stats(),
        validation_tokens=held.stats() if held else None,
    )


def summary_of(files: list[DatasetAnalysis]) -> Summary:
    """The exact numbers of both files together."""
    by_code: Counter[str] = Counter()
    by_level: Counter[str] = Counter()
    for one in files:
        for (code, level), number in one.part.tally.counts.items():
            by_code[code] += number
            by_level[level] += number
    return Summary(
        errors=by_level["error"],
        warnings=by_level["warning"],
        infos=by_level["info"],
        counts=dict(sorted(by_code.items())),
    )


def compute_histograms(
    report: Report, *, epochs: int | None = None, prices: PriceTable | None = None, today: dt.date | None = None
) -> DatasetHistograms:
    """The distributions and costs behind a report, for ``ftpipe.reports.dataset_html``; reads the file once more.

    Args:
        report: From ``validate``.
        epochs: As asked for the job; ``None`` leaves it to the service.
        prices: Price rows; ``None`` for the package's rows of the report's target.
        today: For shutdown dates and the age of prices; ``None`` for the current day.
    """
    day = today or dt.date.today()
    settings = CheckSettings(select=("FT701",))
    found = analyze_file(
        report.dataset.path, target=report.target, method=report.method.value, model=report.model, settings=settings,
        today=day,
    )  # fmt: skip
    table = prices or PriceTable.load(target=report.target)
    return build_histograms(found, method=report.method, epochs=epochs, prices=table, today=day)
