"""Display of a running pipeline: a live picture on a terminal, lines in a log, nothing under ``--quiet``."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ftpipe.cli.context import DEFAULT_COLUMNS, CliContext
from ftpipe.cli.output.progress import LineProgress, LineThrottle, console
from ftpipe.formatting import duration, format_bytes, sanitize_line
from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.records import Event, Job, TrainingMetrics
from ftpipe.reports.runs import STATUS_STYLES, loss_chart, loss_text, step_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

STAGES = {
    "validate": "check the data",
    "count": "count the tokens",
    "upload": "upload",
    "create": "create the job",
    "poll": "wait for the job",
    "register": "register the model",
}
_BAR_COLUMNS = 30


class PipelineDisplay(PipelineObserver):
    """Collects what both displays show, and writes a line for each stage that has ended.

    Args:
        context: Writes lines.
        clock: Monotonic seconds.
    """

    def __init__(self, context: CliContext, clock: Callable[[], float] = time.monotonic) -> None:
        self.context = context
        self.clock = clock
        self.stage = ""
        self.bytes_done = (0, 0)
        self.job: Job | None = None
        self.metrics: list[TrainingMetrics] = []
        self.last_event = ""
        self._errors: list[str] = []
        """Messages of error events that are not shown yet: the error of a failed job has most of them."""
        self._stage_started_at = clock()

    def on_stage(self, name: str) -> None:
        """Finish the previous stage and start this one; the uploads of two files are one stage."""
        if name == self.stage:
            return
        self.finish_stage()
        self.stage, self.bytes_done, self._stage_started_at = name, (0, 0), self.clock()

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Keep how many bytes are done."""
        if stage == self.stage:
            self.bytes_done = (done, total)

    def on_job(self, job: Job) -> None:
        """Keep the job; write what went wrong in one that continues, and how to continue one that is paused."""
        was_paused = self.job is not None and self.job.status == "paused"
        self.job = job
        if job.status == "paused" and not was_paused:
            self.on_status(f"{job.id} is paused; continue with `ftpipe jobs resume {job.id}`")
        if not job.is_finished:
            self._write_errors()

    def on_metric(self, metric: TrainingMetrics) -> None:
        """Keep the metrics."""
        self.metrics.append(metric)

    def on_event(self, event: Event) -> None:
        """Keep the last message; write warnings and errors, and the others under ``--verbose``."""
        self.last_event = sanitize_line(event.message, 200)
        if event.level == "error":
            self._errors.append(event.message)
        elif event.level in ("warn", "warning"):
            self.on_status(event.message)
        elif self.context.verbose:
            self.write("·", "dim", self.last_event)

    def _write_errors(self) -> None:
        """Write the messages of error events, except for the job's own error, which is shown when the command ends."""
        reason = self.job.error.message if self.job and self.job.error else ""
        for message in self._errors:
            if not reason or (reason not in message and message not in reason):
                self.on_status(message)
        self._errors.clear()

    def on_status(self, text: str) -> None:
        """Write a warning."""
        self.write("!", "warning", sanitize_line(text, 400))

    def finish_stage(self) -> None:
        """Write a line about the stage that has just ended."""
        if self.stage:
            has_failed = self.stage == "poll" and self.job is not None and self.job.status in ("failed", "cancelled")
            mark, style = ("✗", "error") if has_failed else ("✓", "ok")
            self.write(mark, style, f"{STAGES.get(self.stage, self.stage)}{self._result()}")
            self.stage = ""

    def _result(self) -> str:
        elapsed = self.clock() - self._stage_started_at
        facts = [duration(elapsed)] if elapsed >= 1 else []
        if self.stage == "upload" and self.bytes_done[1]:
            facts.insert(0, format_bytes(self.bytes_done[1]))
        if self.stage == "create" and self.job:
            facts.insert(0, sanitize_line(self.job.id, 80))
        if self.stage == "poll" and self.job:
            facts.insert(0, sanitize_line(self.job.status, 40))
        return f": {', '.join(facts)}" if facts else ""

    def write(self, mark: str, style: str, text: str) -> None:
        """Write one line."""
        self.context.print_status(f"{self.context.style_err(style, mark)} {text}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the line of the last stage, or events that say more than the error that was raised."""
        self._write_errors()
        if kind is None:
            self.finish_stage()


class LogDisplay(PipelineDisplay):
    """Plain lines: one for each stage and each new status, and now and then one about progress."""

    def __init__(self, context: CliContext, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(context, clock)
        self._byte_lines: LineProgress | None = None
        self._metric_throttle = LineThrottle(clock)
        self._last_status = ""

    def on_stage(self, name: str) -> None:
        """Start the stage."""
        super().on_stage(name)
        self._byte_lines = LineProgress(self.context.print_status, STAGES.get(name, name), clock=self.clock)

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Write a line now and then."""
        super().on_progress(stage, done, total)
        if self._byte_lines and done < total:
            self._byte_lines(done, total)

    def on_job(self, job: Job) -> None:
        """Write a line for each new status."""
        super().on_job(job)
        if self.stage == "poll" and job.status != self._last_status:
            self._last_status = job.status
            self.context.print_status(f"  {sanitize_line(job.id, 80)} is {sanitize_line(job.status, 40)}")

    def on_metric(self, metric: TrainingMetrics) -> None:
        """Write step and losses now and then."""
        super().on_metric(metric)
        fraction = metric.step / metric.total_steps if metric.total_steps else 0.0
        if self._metric_throttle.is_due(fraction):
            self.context.print_status(f"  step {step_text(metric)}: {loss_text(self.metrics)}")


class LiveDisplay(PipelineDisplay):
    """A picture that is redrawn four times a second: stage, step, losses and their curve."""

    def __init__(self, context: CliContext, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(context, clock)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Start drawing."""
        from rich.live import Live

        self._live = Live(
            console=console(self.context), transient=True, refresh_per_second=4, get_renderable=self.picture
        )
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing, and leave the curve on the screen."""
        super().__exit__(kind, error, trace)
        if self._live:
            self._live.stop()
            self._live = None
        curve = loss_chart(self.metrics, width=self._width(), style=self.context.style_err)
        if curve:
            self.context.print_status(curve)

    def write(self, mark: str, style: str, text: str) -> None:
        """Write one line above the picture."""
        if self._live is None:
            super().write(mark, style, text)
            return
        self._live.console.print(self._text(f"{self.context.style_err(style, mark)} {text}"), soft_wrap=True)

    def _width(self) -> int:
        return self._live.console.width if self._live else DEFAULT_COLUMNS

    def _text(self, line: str) -> Text:
        from rich.text import Text

        return Text.from_ansi(self.context.redact(line), no_wrap=True)

    def picture(self) -> RenderableType:
        """Draw the stage that is running."""
        from rich.console import Group

        if not self.stage:
            return Group()
        style = self.context.style_err
        head = f"{style('info', '●')} {STAGES.get(self.stage, self.stage)}"
        elapsed = duration(self.clock() - self._stage_started_at)
        if self.stage == "poll" and self.job is not None:
            return Group(self._text(f"{head}: {self._status()} · {elapsed}"), *self._job_lines())
        done, total = self.bytes_done
        if total:
            return self._with_bar(head, done, total, f"{format_bytes(done)} of {format_bytes(total)} · {elapsed}")
        return self._text(f"{head} · {elapsed}")

    def _status(self) -> str:
        status = sanitize_line(self.job.status, 40) if self.job else ""
        return self.context.style_err(STATUS_STYLES.get(status, "bold"), status)

    def _job_lines(self) -> list[RenderableType]:
        style = self.context.style_err
        if not self.metrics:
            return [self.waiting_bar()] if self.last_event else []
        last = self.metrics[-1]
        remaining = self.job.estimated_finish - time.time() if self.job and self.job.estimated_finish else 0
        step = f"step {step_text(last)}" + (f" · about {duration(remaining)} left" if remaining > 0 else "")
        chart = loss_chart(self.metrics, width=self._width(), style=style)
        return [
            self._with_bar(" ", last.step, last.total_steps, step) if last.total_steps else self._text(f"  {step}"),
            *(self._text(line) for line in [f"  {loss_text(self.metrics)}", *chart]),
        ]

    def waiting_bar(self) -> Table:
        """What is done before the first step, for example a download, with a bar that moves or has its percentage."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        percentage = re.search(r"(\d+) ?%", self.last_event)
        done = float(percentage.group(1)) if percentage else 0.0
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(100, done, width=_BAR_COLUMNS, pulse=percentage is None)
        row.add_row(self._text(" "), bar, self._text(self.context.style_err("dim", self.last_event)))
        return row

    def _with_bar(self, head: str, done: int, total: int, tail: str) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = Table.grid(padding=(0, 1))
        row.add_row(self._text(head), ProgressBar(total, done, width=_BAR_COLUMNS), self._text(tail))
        return row


def make_display(context: CliContext) -> PipelineDisplay:
    """Choose the display for stderr: live on a terminal, lines otherwise."""
    return LiveDisplay(context) if sys.stderr.isatty() and not context.quiet else LogDisplay(context)
