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
    facts: FileContext
    part: PartialScan
    encoding: EncodingChoice
    prints: FingerprintStore

    def stats(self) -> TokenStats:
        """The token figures."""
        sizes = self.part.sizes
        note = self.encoding.note
        if sizes.images:
            note = f"{note} {sizes.images:,} image(s) are estimated.".strip()
        longest = sizes.longest_first()
        totals = sizes.totals or {0: 0}
        return TokenStats(
            encoding=self.encoding.name,
            exact=self.encoding.exact and not sizes.images,
            note=note,
            total=sizes.total,
            trained=sizes.trained,
            examples=sizes.examples,
            mean=round(sizes.total / sizes.examples, 2) if sizes.examples else 0.0,
            min=min(totals),
            p50=sizes.percentile(0.5),
            p90=sizes.percentile(0.9),
            p95=sizes.percentile(0.95),
            p99=sizes.percentile(0.99),
            max=max(totals),
            longest_line=longest[0][1] if longest else None,
            limit=self.facts.limit,
            over_limit=sizes.over(self.facts.limit),
            billable=sizes.billable(self.facts.limit),
        )


def make_plan(
    path: Path, seen: SniffResult, *, target: str, method: str | None, model: str, settings: CheckSettings,
    today: dt.date, role: Literal["train", "validation"] = "train", collect_lines: bool = False,
    reserved: tuple[str, ...] = (),
) -> ScanPlan:  # fmt: skip
    """The plan for scanning a file that was glanced at."""
    return ScanPlan(
        path=path, name=path.name, target=target, method=method, model=model, format=seen.format, role=role,
        today=today, encoding=encoding_for(model).name, limit=example_limit(model, target), size=seen.size,
        has_bom=seen.has_bom, reserved=reserved or seen.reserved, settings=settings, collect_lines=collect_lines,
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
    reserved: tuple[str, ...] = (), spill: FindingSpool | None = None, on_first: OnFinding | None = None,
) -> DatasetAnalysis:  # fmt: skip
    """Survey one file; the rules about the whole file are not run yet.

    Raises:
        UsageError: There is no such regular file.
        LocalStateError: It cannot be read.
    """
    seen = sniff(path, method)
    plan = make_plan(
        path, seen, target=target, method=method, model=model, settings=settings, today=today, role=role,
        collect_lines=collect_lines, reserved=reserved,
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
    after = path.stat()
    facts = FileContext(
        plan.name, target, method or METHOD_OF[seen.format], model, seen.format, layout=seen.layout, role=role,
        today=today, suffix=path.suffix, bytes=seen.size, settings=settings, limit=plan.limit, has_bom=seen.has_bom,
        examples=part.examples, shapes=part.shapes, with_images=part.with_images, habits=part.habits,
    )  # fmt: skip
    facts.sampled["legacy"] = seen.legacy
    facts.sampled["unterminated"] = part.unterminated and part.examples > 0
    facts.sampled["changed"] = after.st_size != seen.size
    facts.sampled["longest"] = part.sizes.longest_first()
    facts.sampled["outlier"] = part.sizes.outlier_bound()
    facts.sampled["tokens"] = (part.sizes.total, part.sizes.trained)
    dataset = Dataset(
        path=path, sha256=digest.result(), bytes=seen.size, examples=part.examples, format=DatasetFormat(seen.format)
    )
    _compare(facts, prints, path)
    return DatasetAnalysis(dataset, facts, part, encoding_for(model), prints)


def _compare(facts: FileContext, prints: FingerprintStore, path: Path) -> None:
    """Compare the records with each other, as far as rules ask for it."""
    settings: CheckSettings = facts.settings
    found = compare(prints, keep=KEEP_EVERY if settings.every else KEEP)
    facts.sampled |= {"duplicates": found.duplicates, "conflicts": found.conflicts, "swapped": found.swapped}
    if not settings.wants("FT802") or facts.examples <= 1 or facts.format == "rft":
        return
    if lacks_package(settings.near_duplicates, facts.bytes):
        facts.not_checked = (NOT_CHECKED,)
    elif should_check_near_duplicates(settings.near_duplicates, facts.bytes):
        near = ((line, other, alike) for _, line, other, alike in near_duplicates(path))
        facts.sampled["near_duplicates"] = list(near)


def run_file_rules(found: DatasetAnalysis) -> None:
    """Run the rules about the whole file and enter what they find."""
    tally, facts = found.part.tally, found.facts
    for rule in all_rules():
        if rule.scope == "file" and tally.settings.wants(rule.code) and facts.format in rule.formats:
            tally.add(rule, rule.check(facts))
    tally.apply_thresholds(facts.examples)
