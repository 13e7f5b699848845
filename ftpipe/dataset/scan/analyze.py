"""Surveys one file under one target: glance, scan every block, and bring the parts together."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ftpipe.catalog.base_models import example_limit
from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.duplicates.exact import KEEP, KEEP_EVERY, compare
from ftpipe.dataset.duplicates.fingerprint_store import FingerprintStore
from ftpipe.dataset.duplicates.near import NOT_CHECKED, lacks_package, near_duplicates, should_check_near_duplicates
from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.formats import METHOD_OF
from ftpipe.dataset.identity import sha256_of
from ftpipe.dataset.reader import read_blocks
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.scan.findings import FindingSpool, OnFinding, finding_of
from ftpipe.dataset.scan.parallel import scan_in_parallel
from ftpipe.dataset.scan.plan import PartialScan, ScanPlan
from ftpipe.dataset.scan.scanner import Scanner
from ftpipe.dataset.scan.statistics import ScanStatistics
from ftpipe.dataset.scan.tally import Tally
from ftpipe.dataset.sniffer import SniffResult, sniff
from ftpipe.records import Dataset, DatasetFormat, TokenStats
from ftpipe.tokenization import EncodingChoice, encoding_for

LOOK_BYTES = 256 * 1024
"""Looked at before anything is built that takes time; the rules need milliseconds for it."""


class FirstFindingReporter:
    """Waits for the first error or warning, and tells it once.

    Args:
        plan: What is being scanned.
        tell: Takes the finding.
    """

    def __init__(self, plan: ScanPlan, tell: OnFinding) -> None:
        self._plan, self._tell, self._is_told = plan, tell, False

    def scan_head(self) -> None:
        """Run the rules on the first lines of the file, without counting tokens."""
        plan = replace(self._plan, size=0)
        limit = plan.settings.max_line_bytes
        for block in read_blocks(plan.path, 0, LOOK_BYTES, max_line_bytes=limit, block_bytes=LOOK_BYTES):
            self.see(Scanner(plan).run_rules(block).tally)
            return

    def see(self, tally: Tally) -> None:
        """Tell the first finding of a tally, errors before warnings, if none was told."""
        if self._is_told:
            return
        found = [item for kept in tally.kept.values() for item in kept if item.level in ("error", "warning")]
        if found:
            self._is_told = True
            self._tell(finding_of(min(found, key=lambda item: (item.level, item.line or 0)), self._plan.name))


OnProgress = Callable[[int, int], None]


def quiet(done: int, total: int) -> None:
    """Say nothing about progress."""


@dataclass(slots=True)
class DatasetAnalysis:
    """All that was learnt about one file."""

    dataset: Dataset
    statistics: ScanStatistics
    part: PartialScan
    encoding: EncodingChoice
    prints: FingerprintStore

    def stats(self) -> TokenStats:
        """The token figures."""
        tokens = self.part.tokens
        note = self.encoding.note
        if tokens.images:
            note = f"{note} {tokens.images:,} image(s) are estimated.".strip()
        longest = tokens.longest_first()
        totals = tokens.totals or {0: 0}
        return TokenStats(
            encoding=self.encoding.name,
            exact=self.encoding.exact and not tokens.images,
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
            limit=self.statistics.file.token_limit,
            over_limit=tokens.over(self.statistics.file.token_limit),
            billable=tokens.billable(self.statistics.file.token_limit),
        )


def make_plan(
    path: Path, seen: SniffResult, *, target: str, method: str | None, model: str, settings: CheckSettings,
    today: dt.date, role: Literal["train", "validation"] = "train", collect_lines: bool = False,
    grader_fields: tuple[str, ...] = (),
) -> ScanPlan:  # fmt: skip
    """The plan for scanning a file that was glanced at."""
    return ScanPlan(
        path=path, name=path.name, target=target, method=method, model=model, format=seen.format, role=role,
        today=today, encoding=encoding_for(model).name, token_limit=example_limit(model, target), size=seen.size,
        has_bom=seen.has_bom, grader_fields=grader_fields or seen.reserved, settings=settings,
        collect_lines=collect_lines,
    )  # fmt: skip


def scan_file(
    plan: ScanPlan,
    prints: FingerprintStore,
    on_progress: OnProgress = quiet,
    spill: FindingSpool | None = None,
    first: FirstFindingReporter | None = None,
) -> PartialScan:
    """Scan a whole file, in as many processes as are worth it.

    Args:
        plan: What to scan and how.
        prints: Takes the fingerprints of all records.
        on_progress: Told bytes done and bytes in all.
        spill: Takes every finding, where the plan's settings ask for it.
        first: Sees the findings as they come.
    """
    whole = PartialScan.of(plan)
    for done, part in scan_in_parallel(plan):
        prints.take(part.prints, whole.lines)
        whole.merge(part)
        if spill is not None:
            spill.append(whole.tally)
        if first is not None:
            first.see(whole.tally)
        on_progress(min(done, plan.size), plan.size)
    return whole


def analyze_file(
    path: Path, *, target: str, method: str | None, model: str, settings: CheckSettings, today: dt.date,
    role: Literal["train", "validation"] = "train", on_progress: OnProgress = quiet, collect_lines: bool = False,
    grader_fields: tuple[str, ...] = (), for_job: bool = False, has_validation: bool = False,
    spill: FindingSpool | None = None, on_first: OnFinding | None = None,
) -> DatasetAnalysis:  # fmt: skip
    """Survey one file; the rules about the whole file are not run yet.

    Raises:
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    seen = sniff(path, method)
    plan = make_plan(
        path, seen, target=target, method=method, model=model, settings=settings, today=today, role=role,
        collect_lines=collect_lines, grader_fields=grader_fields,
    )  # fmt: skip
    prints = FingerprintStore()
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as beside:
        digest = beside.submit(sha256_of, path)
        if seen.layout == "lines":
            first = FirstFindingReporter(plan, on_first) if on_first else None
            if first is not None:
                first.scan_head()
            part = scan_file(plan, prints, on_progress, spill, first)
        else:
            part = PartialScan.of(plan)
    file = FileContext(
        plan.name, target, method or METHOD_OF[seen.format], model, seen.format, layout=seen.layout, role=role,
        today=today, suffix=path.suffix, bytes=seen.size, settings=settings, token_limit=plan.token_limit,
        has_bom=seen.has_bom, legacy_shape=seen.legacy, for_job=for_job, has_validation=has_validation,
    )  # fmt: skip
    statistics = ScanStatistics(
        file, examples=part.examples, shapes=part.shapes, with_images=part.with_images, tokens=part.tokens,
        content=part.content, is_unterminated=part.unterminated and part.examples > 0,
        has_changed=path.stat().st_size != seen.size,
    )  # fmt: skip
    dataset = Dataset(
        path=path, sha256=digest.result(), bytes=seen.size, examples=part.examples, format=DatasetFormat(seen.format)
    )
    _compare(statistics, prints, path)
    return DatasetAnalysis(dataset, statistics, part, encoding_for(model), prints)


def _compare(statistics: ScanStatistics, prints: FingerprintStore, path: Path) -> None:
    """Compare the records with each other, as far as rules ask for it."""
    file, settings = statistics.file, statistics.file.settings
    found = compare(prints, keep=KEEP_EVERY if settings.every else KEEP)
    statistics.duplicates, statistics.conflicts, statistics.swapped = found.duplicates, found.conflicts, found.swapped
    if not settings.wants("FT802") or statistics.examples <= 1 or file.format == "rft":
        return
    if lacks_package(settings.near_duplicates, file.bytes):
        statistics.not_checked = (NOT_CHECKED,)
    elif should_check_near_duplicates(settings.near_duplicates, file.bytes):
        statistics.near_duplicates = [(line, other, alike) for _, line, other, alike in near_duplicates(path)]


def run_file_rules(found: DatasetAnalysis) -> None:
    """Run the rules about the whole file and enter what they find."""
    tally, statistics = found.part.tally, found.statistics
    for rule in all_rules():
        if rule.scope == "file" and tally.settings.wants(rule.code) and statistics.file.format in rule.formats:
            tally.add(rule, rule.check(statistics))
    tally.apply_thresholds(statistics.examples)
