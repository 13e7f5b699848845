"""The pipeline as it happens: a live picture on a terminal, plain lines in a log, nothing under ``--quiet``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ftpipe.cli.context import CliContext
from ftpipe.cli.output.progress import LineProgress
from ftpipe.formatting import duration, format_bytes, sanitize_line
from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.records import Event, Job, TrainingMetrics
from ftpipe.reports.runs import STATUS_STYLES, loss_chart, loss_text, step_text

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

STAGES = {
    "validate": "check the data",
    "count": "count the tokens",
    "upload": "upload",
    "create": "create the job",
    "poll": "wait for the job",
    "register": "register the model",
}
LINE_SECONDS = 10.0
"""How often a log hears of a running job at most."""


class PipelineDisplay(PipelineObserver):
    """What both pictures are drawn from, and what an interrupt says.

    Args:
        context: Where lines go.
        clock: Monotonic seconds.
    """

    def __init__(self, context: CliContext, clock: Callable[[], float] = time.monotonic) -> None:
        self.context = context
        self.clock = clock
        self.stage = ""
        self.done = (0, 0)
        self.job: Job | None = None
        self.metrics: list[TrainingMetrics] = []
        self.last_event = ""
        self._begun = clock()

    def on_stage(self, name: str) -> None:
        """Remember the stage, and say how the one before ended; two files are one upload."""
        if name == self.stage:
            return
        self.finish_stage()
        self.stage, self.done, self._begun = name, (0, 0), self.clock()

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Remember how many bytes are done."""
        if stage == self.stage:
            self.done = (done, total)

    def on_job(self, job: Job) -> None:
        """Remember the job, and how to come back to it."""
        self.job = job
        if not job.is_finished:
            self.context.interrupt_message = (
                f"interrupted; {sanitize_line(job.id, 80)} goes on at {sanitize_line(job.provider, 40)}"
            )

    def on_metric(self, metric: TrainingMetrics) -> None:
        """Remember the metrics."""
        self.metrics.append(metric)

    def on_event(self, event: Event) -> None:
        """Remember what was said last; warnings and errors stay on the screen."""
        self.last_event = sanitize_line(event.message, 200)
        if event.level in ("warn", "warning", "error"):
            self.on_status(event.message)
        elif self.context.verbose:
            self.write("·", "dim", self.last_event)

    def on_status(self, text: str) -> None:
        """Say it."""
        self.write("!", "warning", sanitize_line(text, 400))

    def finish_stage(self) -> None:
        """Write the line of the stage that has just ended."""
        if self.stage:
            self.write("✓", "ok", f"{STAGES.get(self.stage, self.stage)}{self._result()}")
            self.stage = ""

    def _result(self) -> str:
        took = self.clock() - self._begun
        facts = [duration(took)] if took >= 1 else []
        if self.stage == "upload" and self.done[1]:
            facts.insert(0, format_bytes(self.done[1]))
        if self.stage == "create" and self.job:
            facts.insert(0, sanitize_line(self.job.id, 80))
        if self.stage == "poll" and self.job:
            facts.insert(0, sanitize_line(self.job.status, 40))
        return f": {', '.join(facts)}" if facts else ""

    def write(self, mark: str, style: str, text: str) -> None:
        """One line that stays."""
        self.context.print_status(f"{self.context.style_err(style, mark)} {text}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the picture; the last stage counts as done where nothing was raised."""
        if kind is None:
            self.finish_stage()


class LogDisplay(PipelineDisplay):
    """Plain lines: one for each stage, and one every ten seconds or ten per cent of a job."""

    def __init__(self, context: CliContext, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(context, clock)
        self._bytes: LineProgress | None = None
        self._last_time = clock()
        self._last_share = 0.0
        self._last_status = ""

    def on_stage(self, name: str) -> None:
        """Say that a stage begins where it may take long."""
        super().on_stage(name)
        self._bytes = LineProgress(self.context.print_status, STAGES.get(name, name), self.clock)

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Say now and then how far it is."""
        super().on_progress(stage, done, total)
        if self._bytes and done < total:
            self._bytes(done, total)

    def on_job(self, job: Job) -> None:
        """Say each change of status."""
        super().on_job(job)
        if self.stage == "poll" and job.status != self._last_status:
            self._last_status = job.status
            self.context.print_status(f"  {sanitize_line(job.id, 80)} is {sanitize_line(job.status, 40)}")

    def on_metric(self, metric: TrainingMetrics) -> None:
        """Say now and then how the loss stands."""
        super().on_metric(metric)
        share = metric.step / metric.total_steps if metric.total_steps else 0.0
        now = self.clock()
        if share - self._last_share >= 0.1 or now - self._last_time >= LINE_SECONDS:
            self._last_time, self._last_share = now, share
            self.context.print_status(f"  step {step_text(metric)}: {loss_text(self.metrics)}")


class LiveDisplay(PipelineDisplay):
    """A picture that is drawn again and again: the stage, the step, the losses and their curve."""

    def __init__(self, context: CliContext, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(context, clock)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Begin to draw."""
        from rich.live import Live

        from ftpipe.cli.output.progress import console

        self._live = Live(
            console=console(self.context), transient=True, refresh_per_second=4, get_renderable=self._picture
        )
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing, and leave the curve standing."""
        super().__exit__(kind, error, trace)
        if self._live:
            self._live.stop()
            self._live = None
        curve = loss_chart(self.metrics, width=self._width(), style=self.context.style_err)
        if curve:
            self.context.print_status(curve)

    def write(self, mark: str, style: str, text: str) -> None:
        """One line above the picture."""
        if self._live is None:
            super().write(mark, style, text)
            return
        from rich.text import Text

        line = f"{self.context.style_err(style, mark)} {self.context.redact(text)}"
        self._live.console.print(Text.from_ansi(line), soft_wrap=True)

    def _width(self) -> int:
        return self._live.console.width if self._live else 80

    def _picture(self) -> Text:
        from rich.text import Text

        return Text.from_ansi("\n".join(self.context.redact(line) for line in self.lines(self._width())), no_wrap=True)

    def lines(self, width: int) -> list[str]:
        """The picture, line by line."""
        if not self.stage:
            return []
        paint = self.context.style_err
        took = duration(self.clock() - self._begun)
        head = f"{paint('info', '●')} {STAGES.get(self.stage, self.stage)}"
        if self.stage == "poll" and self.job is not None:
            return [f"{head}: {self._job_text()} · {took}", *self._curve(width)]
        done, total = self.done
        if total:
            return [f"{head}  {bar(done / total, 30)} {format_bytes(done)} of {format_bytes(total)} · {took}"]
        return [f"{head} · {took}"]

    def _job_text(self) -> str:
        job = self.job
        status = sanitize_line(job.status, 40) if job else ""
        return self.context.style_err(STATUS_STYLES.get(status, "bold"), status)

    def _curve(self, width: int) -> list[str]:
        if not self.metrics:
            return [self.context.style_err("dim", f"  {self.last_event}")] if self.last_event else []
        last = self.metrics[-1]
        share = f"{bar(last.step / last.total_steps, 30)} " if last.total_steps else ""
        left = self.job.estimated_finish - time.time() if self.job and self.job.estimated_finish else 0
        finish = f" · about {duration(left)} left" if left > 0 else ""
        lines = [f"  {share}step {step_text(last)}{finish}", f"  {loss_text(self.metrics)}"]
        return [*lines, *loss_chart(self.metrics, width=width, style=self.context.style_err)]


def bar(share: float, width: int) -> str:
    """A bar of ``width`` characters."""
    full = round(max(0.0, min(1.0, share)) * width)
    return "━" * full + "╌" * (width - full)


def make_display(context: CliContext) -> PipelineDisplay:
    """The picture that fits where stderr goes."""
    return LiveDisplay(context) if sys.stderr.isatty() and not context.quiet else LogDisplay(context)
