"""What the pipeline tells while it works; whoever shows progress overrides what it wants to show."""

from __future__ import annotations

from ftpipe.records import Event, Job, TrainingMetrics


class PipelineObserver:
    """Hears what the pipeline does; this one says nothing. Override what you want to show."""

    def on_stage(self, name: str) -> None:
        """A stage begins: ``validate``, ``count``, ``upload``, ``create``, ``poll`` or ``register``."""

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Bytes done and bytes in all of ``validate``, ``count`` or ``upload``."""

    def on_job(self, job: Job) -> None:
        """The job as it was just seen."""

    def on_event(self, event: Event) -> None:
        """A new event of the job."""

    def on_metric(self, metric: TrainingMetrics) -> None:
        """New metrics of the job."""

    def on_status(self, text: str) -> None:
        """Something that a person should know."""
