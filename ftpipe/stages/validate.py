"""Stage 1: check a dataset against everything that its target requires, and count its tokens in the same reading."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ftpipe.dataset.check_settings import CheckSettings, check_codes
from ftpipe.dataset.duplicates.exact import overlap
from ftpipe.dataset.duplicates.near import NOT_CHECKED, lacks_package, near_duplicates, should_check_near_duplicates
from ftpipe.dataset.histograms import build_histograms
from ftpipe.dataset.rules import codes, names_of_row_rules
from ftpipe.dataset.rules.base import TARGETS
from ftpipe.dataset.scan.analyze import DatasetAnalysis, analyze_file
from ftpipe.dataset.scan.context import ScanContext, ScanObserver
from ftpipe.dataset.scan.findings import finding_of
from ftpipe.errors import UsageError
from ftpipe.records import Finding, Method, Report, Summary
from ftpipe.suggestions import did_you_mean

__all__ = ["CheckSettings", "ScanObserver", "blocking_errors", "failing_lines", "validate"]


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
    max_length: object = None,
    observer: ScanObserver | None = None,
) -> Report:
    """Check a dataset, and the validation file that goes with it.

    Args:
        path: The training file.
        target: Whose rules: a profile's ``target``, for example ``openai``.
        method: ``supervised``, ``dpo`` or ``reinforcement``; ``None`` takes the method that the file's format is for.
        model: Base model; decides encoding, token limit and shutdown date.
        validation: The validation file.
        test: A held-out test file that must not leak into the training file.
        settings: Which rules to run, what to ignore, and thresholds.
        today: For shutdown dates; ``None`` for the current day.
        for_job: Check also what only a job needs, such as a validation file in reinforcement.
        max_length: The job's ``max_length``, for local training; ``None`` for the default.
        observer: Called with progress and findings; progress and first finding are those of the training file.

    Returns:
        The report, with the token figures of both files; ``count`` adds the cost.

    Raises:
        UsageError: A file does not exist, or target, method or a rule code is unknown.
        LocalStateError: A file cannot be read.
    """
    settings, observer = settings or CheckSettings(), observer or ScanObserver()
    check_codes((*settings.select, *settings.ignore), codes())
    if target not in TARGETS:
        raise UsageError(f"Unknown target {target!r}.", did_you_mean(target, TARGETS))
    context = ScanContext(target, _method_name(method), model, max_length, settings, today or dt.date.today(), observer)
    train = analyze_file(Path(path), context, for_job=for_job, has_validation=validation is not None)
    analyses = [train]
    if validation is not None:
        analyses.append(_analyze_validation(train, Path(validation), context))
    if test is not None:
        other = analyze_file(Path(test), replace(context, method=train.file.resolved_method, observer=ScanObserver()))
        train.statistics.leaks = overlap(train.fingerprints, other.fingerprints)
    train.run_file_rules()
    if observer.on_finding is not None:
        for analysis in analyses:
            analysis.replay_findings(observer.on_finding)
    return _report(analyses, context)


def blocking_errors(report: Report, *, skip_bad_rows: bool = False) -> list[Finding]:
    """The errors with which no job can be created.

    Args:
        report: The report of the files.
        skip_bad_rows: The job leaves out rows with errors, so only those of whole files count.
    """
    skipped = names_of_row_rules() if skip_bad_rows else {}
    return [item for item in report.findings if item.severity == "error" and item.code not in skipped]


def failing_lines(
    path: Path, *, target: str = "openai", method: Method | str | None = None, model: str = "",
    settings: CheckSettings | None = None, today: dt.date | None = None, max_length: object = None,
) -> set[int]:  # fmt: skip
    """Every line with an error, for ``ftpipe.dataset.fixes.quarantine``; arguments and errors as for ``validate``."""
    context = ScanContext(
        target, _method_name(method), model, max_length, settings or CheckSettings(), today or dt.date.today()
    )  # fmt: skip
    analysis = analyze_file(Path(path), context, collect_lines=True)
    return set().union(*(analysis.tally.error_lines or {}).values())


def _analyze_validation(train: DatasetAnalysis, path: Path, context: ScanContext) -> DatasetAnalysis:
    """Analyze the validation file and compare it with the training file."""
    observer = ScanObserver(on_finding=context.observer.on_finding)
    validation = analyze_file(
        path, replace(context, method=train.file.resolved_method, observer=observer), role="validation"
    )
    statistics = validation.statistics
    statistics.overlap = overlap(train.fingerprints, validation.fingerprints)
    statistics.train_examples = train.statistics.examples
    statistics.near_overlap = _near_overlap(train, path)
    validation.run_file_rules()
    return validation


def _near_overlap(train: DatasetAnalysis, validation: Path) -> list[tuple[int, int, float]]:
    """Near duplicates of training records in the validation file, if that is quick or requested."""
    settings, size = train.file.settings, train.file.size_bytes
    if not settings.wants("FT704"):
        return []
    if lacks_package(settings.near_duplicates, size):
        train.statistics.not_checked = (NOT_CHECKED,)
        return []
    if not should_check_near_duplicates(settings.near_duplicates, size):
        return []
    return [near[1:] for near in near_duplicates(train.dataset.path, validation)]


def _method_name(method: Method | str | None) -> str | None:
    if method is None:
        return None
    try:
        return Method(method).value
    except ValueError as exc:
        raise UsageError(f"Unknown method {method!r}.", did_you_mean(str(method), [m.value for m in Method])) from exc


def _report(analyses: list[DatasetAnalysis], context: ScanContext) -> Report:
    train, validation = analyses[0], analyses[1] if len(analyses) > 1 else None
    findings = []
    for number, analysis in enumerate(analyses):
        findings += [(number, finding_of(raw, analysis.file.name)) for raw in analysis.tally.all_retained()]
    findings.sort(key=lambda item: (item[0], item[1].line or 0, item[1].code))
    return Report(
        dataset=train.dataset,
        validation=validation.dataset if validation else None,
        target=context.target,
        method=Method(train.file.resolved_method),
        model=context.model,
        findings=tuple(finding for _, finding in findings),
        summary=_summary(analyses),
        not_checked=tuple(dict.fromkeys(text for analysis in analyses for text in analysis.statistics.not_checked)),
        tokens=train.token_stats(),
        validation_tokens=validation.token_stats() if validation else None,
        histograms=build_histograms(train.statistics),
    )


def _summary(analyses: list[DatasetAnalysis]) -> Summary:
    """The exact numbers of all files together."""
    by_code: Counter[str] = Counter()
    by_level: Counter[str] = Counter()
    for analysis in analyses:
        for (code, level), number in analysis.tally.counts.items():
            by_code[code] += number
            by_level[level] += number
    return Summary(
        errors=by_level["error"],
        warnings=by_level["warning"],
        infos=by_level["info"],
        counts=dict(sorted(by_code.items())),
    )
