"""Write what a trainer reports into its job directory: events, progress, metrics, checkpoints, and the resume state."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ftpipe.atomic_files import write_bytes
from ftpipe.records.job import TrainingMetrics
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import JobDirectory, Progress
from ftpipe.training.metrics_csv import write_metrics
from ftpipe.training.trainer import (
    CheckpointReport,
    PauseReport,
    Report,
    StartReport,
    StateReport,
    StepReport,
)

STARTED = "Fine-tuning job started"
WARN_ABOUT_SAME_REWARDS = 0.9
"""Part of the prompts whose answers all got the same reward, from which on an event says so."""


@dataclass
class JobRecorder:
    """The only writer of a job directory while a job is trained, wherever it is computed.

    Attributes:
        directory: The job directory.
        hyperparameters: The resolved hyperparameters.
        keep_checkpoints: How many checkpoints stay on disk, the newest.
        notes: What the job's first start says about how it trains.
        progress: How far the job is.
    """

    directory: JobDirectory
    hyperparameters: ResolvedHyperparameters
    keep_checkpoints: int
    notes: Sequence[str] = ()
    progress: Progress = field(default_factory=Progress)
    metrics: list[TrainingMetrics] = field(default_factory=list)
    _last_reported_step: int = 0
    _total_tokens: int | None = 0
    _initial_tokens: int = 0
    _initial_step: int = 0
    _started_at: float = 0.0

    def record(self, reports: Iterable[Report]) -> bool:
        """Write every report down as it comes; ``False`` if the run was paused before its end."""
        is_paused = False
        for report in reports:
            match report:
                case StartReport():
                    self._total_tokens = report.total_tokens
                    self._start(report)
                case StepReport():
                    self._record_step(report)
                case CheckpointReport():
                    self._save_checkpoint(report)
                case StateReport():
                    self.directory.state_file.parent.mkdir(exist_ok=True)
                    write_bytes(self.directory.state_file, report.content)
                case PauseReport():
                    self._write_progress("paused")
                    is_paused = True
        if not is_paused:
            self._warn_about_rewards()
        return not is_paused

    def _warn_about_rewards(self) -> None:
        """Say that a grader distinguished nothing, so that nothing was learnt."""
        measured = [row.zero_std_fraction for row in self.metrics if row.zero_std_fraction is not None]
        if not measured or sum(measured) < WARN_ABOUT_SAME_REWARDS * len(measured):
            return
        what = "Nothing was learnt" if all(part == 1 for part in measured) else "Little was learnt"
        message = (
            f"{what}: the answers to {sum(measured) / len(measured):.0%} of the prompts all got the same reward; "
            "use a grader that gives partial credit, easier prompts, or a higher compute_multiplier"
        )
        if message not in self.directory.reported_events()[1]:
            self.directory.append_event(message, level="warn")

    def _start(self, report: StartReport) -> None:
        state, total_steps = report.state, report.total_steps
        self.metrics = list(state.metrics)
        self._initial_tokens, self._initial_step = state.trained_tokens, state.step
        self._started_at = time.monotonic()
        self.progress = Progress(
            total_steps=total_steps,
            hyperparameters=self.hyperparameters.as_api(),
            step=state.step,
            trained_tokens=state.trained_tokens,
        )
        write_metrics(self.directory.metrics_file, self.metrics)
        self._last_reported_step, messages = self.directory.reported_events()
        if STARTED not in messages:
            for message in (STARTED, *self.notes, *report.notes):
                self.directory.append_event(message)
        elif state.step:
            self.directory.append_event(f"Training resumed after step {state.step}/{total_steps}")
        self._write_progress("running")

    def _record_step(self, report: StepReport) -> None:
        """Write metrics event, CSV and progress; a step that is taken again after a kill has no second event."""
        metrics, total_steps = report.metrics, self.progress.total_steps
        elapsed_seconds = time.monotonic() - self._started_at
        speed = (report.trained_tokens - self._initial_tokens) / max(1e-9, elapsed_seconds)
        if metrics.step > self._last_reported_step:
            measured = metrics.model_dump(exclude_none=True)
            data = {**measured, **report.details, "total_steps": total_steps, "tokens_per_second": round(speed, 1)}
            self.directory.append_event(
                f"Step {metrics.step}/{total_steps}: {_measured_text(metrics)}", event_type="metrics", data=data
            )
            self._last_reported_step = metrics.step
            if report.warning:
                self.directory.append_event(report.warning, level="warn")
        self.metrics.append(metrics)
        write_metrics(self.directory.metrics_file, self.metrics)
        if self._total_tokens is None:
            steps = max(1, metrics.step - self._initial_step)
            seconds_left = elapsed_seconds / steps * (total_steps - metrics.step)
        else:
            seconds_left = (self._total_tokens - report.trained_tokens) / max(1e-9, speed)
        self.progress.step, self.progress.trained_tokens = metrics.step, report.trained_tokens
        self.progress.peak_memory_bytes = report.peak_memory_bytes
        self.progress.tokens_per_second = round(speed, 1)
        self.progress.estimated_finish = int(time.time() + seconds_left) if elapsed_seconds > 1 else None
        self._write_progress("running")

    def _write_progress(self, status: str) -> None:
        self.progress.status = status
        self.directory.write_progress(self.progress)

    def _save_checkpoint(self, report: CheckpointReport) -> None:
        with self.directory.new_checkpoint(report.metrics) as target:
            for name, content in report.files.items():
                (target / name).write_bytes(content)
        message = f"Checkpoint created at step {report.metrics.step}"
        if message not in self.directory.reported_events()[1]:
            self.directory.append_event(message, data={"step": report.metrics.step})
        self.directory.prune_checkpoints(self.keep_checkpoints)


def _measured_text(metrics: TrainingMetrics) -> str:
    """Rewards if there are any, else losses."""
    if metrics.train_mean_reward is not None:
        values = {"mean reward": metrics.train_mean_reward, "full validation reward": metrics.full_valid_mean_reward}
    else:
        values = {
            "training loss": metrics.train_loss,
            "validation loss": metrics.valid_loss,
            "full validation loss": metrics.full_valid_loss,
        }
    return ", ".join(f"{name}={value:.2f}" for name, value in values.items() if value is not None)
