"""Tells the first finding while a large file is still being read, so that nobody waits to learn that it is broken."""

from __future__ import annotations

from dataclasses import replace

from ftpipe.dataset.finding import finding_of
from ftpipe.dataset.lines import read_blocks
from ftpipe.dataset.part import ScanPlan
from ftpipe.dataset.scan import Scanner
from ftpipe.dataset.spill import OnFinding
from ftpipe.dataset.tally import Tally

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
