"""Analyzes one file: sniff its format, scan every block, compare the records, run the rules about the whole file."""

from __future__ import annotations

import threading
from array import array
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ftpipe.catalog.base_models import example_limit
from ftpipe.dataset.duplicates.exact import MAX_SAMPLES, MAX_SAMPLES_IF_ALL, compare
from ftpipe.dataset.duplicates.fingerprint_store import FingerprintStore
from ftpipe.dataset.duplicates.near import NOT_CHECKED, lacks_package, near_duplicates, should_check_near_duplicates
from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.identity import sha256_of_dataset
from ftpipe.dataset.reader import read_blocks
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.scan.context import OnFinding, OnRowTokens, ScanContext, ScanObserver
from ftpipe.dataset.scan.findings import FindingSpool, finding_of
from ftpipe.dataset.scan.parallel import scan_in_parallel
from ftpipe.dataset.scan.plan import PartialScan, ScanPlan
from ftpipe.dataset.scan.scanner import Scanner
from ftpipe.dataset.scan.statistics import ScanStatistics
from ftpipe.dataset.scan.tally import Tally
from ftpipe.dataset.sniffer import SniffResult, sniff
from ftpipe.dataset.training_check import local_token_limit
from ftpipe.formatting import plural
from ftpipe.records import Dataset, DatasetFormat, TokenStats
from ftpipe.tokenization import EncodingChoice, encoding_for

UNCOUNTED_PARTS = "parts whose tokens OpenAI does not document (in tools: $ref, anyOf, default and others; audio)"
HEAD_BYTES = 256 * 1024
"""Scanned before anything is built that takes time; the rules need milliseconds for it."""


@dataclass(slots=True)
class DatasetAnalysis:
    """All that was learnt about one file."""

    dataset: Dataset
    statistics: ScanStatistics
    tally: Tally
    encoding: EncodingChoice
    fingerprints: FingerprintStore
    spool: FindingSpool | None
    """Holds every finding, if the observer wants them."""

    @property
    def file(self) -> FileContext:
        """What was known before the file was read."""
        return self.statistics.file

    def run_file_rules(self) -> None:
        """Run the rules about the whole file and count their findings."""
        for rule in all_rules():
            if rule.scope == "file" and self.file.settings.wants(rule.code) and self.file.format in rule.formats:
                self.tally.add(rule, rule.check(self.statistics))
        self.tally.apply_thresholds(self.statistics.examples)

    def replay_findings(self, on_finding: OnFinding) -> None:
        """Pass on every finding and remove the spool."""
        if self.spool is not None:
            self.spool.append(self.tally)
            self.spool.replay(self.tally, self.file.name, on_finding)
            self.spool.close()

    def token_stats(self) -> TokenStats:
        """The token figures as a record."""
        tokens, limit = self.statistics.tokens, self.file.token_limit
        note = self.encoding.note
        if tokens.images:
            note = f"{note} {tokens.images:,} image(s) are estimated.".strip()
        if tokens.lower_bounds:
            examples = plural(tokens.lower_bounds, "example has", "examples have")
            note = f"{note} {examples} {UNCOUNTED_PARTS}, so the counts are lower bounds.".strip()
        longest = tokens.longest_first()
        totals = tokens.totals or {0: 0}
        return TokenStats(
            encoding=self.encoding.name,
            exact=self.encoding.exact and not tokens.images and not tokens.lower_bounds,
            lower_bound_examples=tokens.lower_bounds,
            note=note,
            total=tokens.total,
            trained=tokens.trained,
            examples=tokens.examples,
            mean=round(tokens.total / tokens.examples, 2) if tokens.examples else 0.0,
            min=min(totals),
            p50=tokens.percentile(0.5),
            p90=tokens.percentile(0.9),
            p95=tokens.percentile(0.95),
            p99=tokens.percentile(0.99),
            max=max(totals),
            longest_line=longest[0][1] if longest else None,
            limit=limit,
            over_limit=tokens.over(limit),
            billable=tokens.billable(limit),
        )


def analyze_file(
    path: Path, context: ScanContext, *, role: Literal["train", "validation"] = "train", collect_lines: bool = False,
    for_job: bool = False, has_validation: bool = False,
) -> DatasetAnalysis:  # fmt: skip
    """Analyze one file; the rules about the whole file are not run yet.

    The file is read once. A thread computes its digest meanwhile: large files are scanned in ranges by several
    processes, so none of them sees the whole file in order. The thread finds the bytes in the cache of the system and
    takes 1 ms a MB, 1 % of a scan (measured 2026-11-28). Near duplicates, looked for in files up to 8 MiB, need the
    lines once more: 3 ms a MB of the 60 ms that MinHash takes.

    Args:
        path: The file.
        context: What the files of the check have in common.
        role: Whether it is the training file or the validation file.
        collect_lines: Remember every line with an error.
        for_job: Check also what only a job needs.
        has_validation: A validation file goes with it.

    Raises:
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    sniffed = sniff(path, context.method)
    plan = make_plan(
        path, sniffed, context, role=role, collect_lines=collect_lines, for_job=for_job, has_validation=has_validation
    )
    fingerprints = FingerprintStore()
    spool = FindingSpool() if plan.collect_every_finding else None
    digest = _start_digest(path)
    is_scanned = sniffed.layout == "lines"
    part = _scan(plan, context.observer, fingerprints, spool) if is_scanned else PartialScan.of(plan)
    sha256 = digest.result()
    statistics = ScanStatistics(
        plan.file, examples=part.examples, shapes=part.shapes, with_images=part.with_images, tokens=part.tokens,
        content=part.content, is_unterminated=part.is_unterminated and part.examples > 0,
        has_changed=path.stat().st_size != sniffed.size,
    )  # fmt: skip
    dataset = Dataset(
        path=path, sha256=sha256, bytes=sniffed.size, examples=part.examples,
        format=DatasetFormat(sniffed.format),
    )  # fmt: skip
    _compare_records(statistics, fingerprints, plan)
    return DatasetAnalysis(dataset, statistics, part.tally, encoding_for(context.model), fingerprints, spool)


def _start_digest(path: Path) -> Future[str]:
    """Compute the digest in a daemon thread, so that Ctrl-C does not wait for the rest of a large file."""
    digest: Future[str] = Future()

    def compute() -> None:
        try:
            digest.set_result(sha256_of_dataset(path))
        except BaseException as exc:  # noqa: BLE001 - it is raised again where the result is read
            digest.set_exception(exc)

    threading.Thread(target=compute, daemon=True, name="digest").start()
    return digest


def make_plan(
    path: Path, sniffed: SniffResult, context: ScanContext, *, role: Literal["train", "validation"] = "train",
    collect_lines: bool = False, for_job: bool = False, has_validation: bool = False,
) -> ScanPlan:  # fmt: skip
    """The plan for scanning a file."""
    file = FileContext(
        path.name, context.target, context.method, context.model, sniffed.format, layout=sniffed.layout, role=role,
        today=context.today, suffix=path.suffix, size_bytes=sniffed.size, settings=context.settings,
        token_limit=_token_limit(context), has_bom=sniffed.has_bom,
        legacy_shape=sniffed.legacy_shape, grader_fields=sniffed.grader_fields, for_job=for_job,
        has_validation=has_validation,
    )  # fmt: skip
    return ScanPlan(
        path, file, encoding_for(context.model).name, collect_lines=collect_lines,
        collect_every_finding=context.observer.on_finding is not None,
        collect_row_tokens=context.observer.on_row_tokens is not None,
    )  # fmt: skip


def _token_limit(context: ScanContext) -> int | None:
    if context.target == "local":
        return local_token_limit(context.model, context.max_length)
    return example_limit(context.model, context.target)


def _scan(
    plan: ScanPlan, observer: ScanObserver, fingerprints: FingerprintStore, spool: FindingSpool | None
) -> PartialScan:
    """Scan the whole file, in several processes if it is large."""
    first = FirstFindingReporter(plan, observer.on_first_finding) if observer.on_first_finding else None
    if first is not None:
        first.scan_head()
    whole = PartialScan.of(plan)
    size = plan.file.size_bytes
    for done, part in scan_in_parallel(plan):
        fingerprints.add(part.fingerprints, whole.lines)
        whole.merge(part)
        if spool is not None:
            spool.append(whole.tally)
        if observer.on_row_tokens is not None:
            report_row_tokens(whole, observer.on_row_tokens)
        if first is not None:
            first.report(whole.tally)
        observer.on_progress(min(done, size), size)
    return whole


def report_row_tokens(part: PartialScan, on_row_tokens: OnRowTokens) -> None:
    """Pass on the tokens of the records of a part, and clear them."""
    values = iter(part.row_tokens)
    for line, tokens, trained in zip(values, values, values, strict=True):
        on_row_tokens(line, tokens, trained)
    part.row_tokens = array("Q")


def _compare_records(statistics: ScanStatistics, fingerprints: FingerprintStore, plan: ScanPlan) -> None:
    """Compare the records with each other, as far as rules need it."""
    file, settings = statistics.file, statistics.file.settings
    samples = MAX_SAMPLES_IF_ALL if plan.collect_every_finding else MAX_SAMPLES
    comparison = compare(fingerprints, max_samples=samples)
    statistics.duplicates = comparison.duplicates
    statistics.conflicts = comparison.conflicts
    statistics.swapped = comparison.swapped
    if not settings.wants("FT802") or statistics.examples <= 1 or file.format == "rft":
        return
    if lacks_package(settings.near_duplicates, file.size_bytes):
        statistics.not_checked = (NOT_CHECKED,)
    elif should_check_near_duplicates(settings.near_duplicates, file.size_bytes):
        statistics.near_duplicates = [near[1:] for near in near_duplicates(plan.path)]


class FirstFindingReporter:
    """Reports the first error or warning of a file, once.

    Args:
        plan: What is scanned.
        on_first_finding: Called with the finding.
    """

    def __init__(self, plan: ScanPlan, on_first_finding: OnFinding) -> None:
        self._plan, self._on_first_finding, self._is_done = plan, on_first_finding, False

    def scan_head(self) -> None:
        """Run the rules on the first lines of the file, without counting tokens."""
        # As if for a small file: the prefilter of a large one takes longer to build than this scan.
        plan = replace(self._plan, file=replace(self._plan.file, size_bytes=0))
        limit = plan.file.settings.max_line_bytes
        for block in read_blocks(plan.path, 0, HEAD_BYTES, max_line_bytes=limit, block_bytes=HEAD_BYTES):
            self.report(Scanner(plan).run_rules(block).tally)
            return

    def report(self, tally: Tally) -> None:
        """Report the first finding of a tally, errors before warnings, unless one was reported before."""
        if self._is_done:
            return
        findings = [finding for finding in tally.all_retained() if finding.level in ("error", "warning")]
        if findings:
            self._is_done = True
            first = min(findings, key=lambda finding: (finding.level, finding.line or 0))
            self._on_first_finding(finding_of(first, self._plan.file.name))
