"""What the pipeline reports while it works; override the methods for what you want to show."""

from __future__ import annotations

from ftpipe.records import Event, Job, TrainingMetrics


class PipelineObserver:
    """Is called while the pipeline works; this base class ignores everything."""

    def on_stage(self, name: str) -> None:
        """A stage starts: ``validate``, ``count``, ``upload``, ``create``, ``poll`` or ``register``."""

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Bytes that are done and all bytes of ``validate``, ``count`` or ``upload``."""

    def on_job(self, job: Job) -> None:
        """The job as it was just read."""

    def on_event(self, event: Event) -> None:
        """A new event of the job."""

    def on_metric(self, metric: TrainingMetrics) -> None:
        """New metrics of the job."""

    def on_status(self, text: str) -> None:
        """Something that the user should know."""
