"""A fake endpoint whose jobs train one epoch each time they are read, and can be paused, continued and cancelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, cast

from openai.pagination import SyncCursorPage
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from tests.fakes.openai_client import NOW, FakeOpenAI, _Jobs, status_error

Loss = Callable[[Mapping[str, Any], int], float]
"""Hyperparameters and epoch → validation loss."""
STEPS_PER_EPOCH = 2
ENDED = ("succeeded", "failed", "cancelled")


def loss_by_rate(hyperparameters: Mapping[str, Any], epoch: int) -> float:
    """Lower for a lower multiplier, and with each epoch."""
    return round(float(hyperparameters["learning_rate_multiplier"]) / epoch, 4)


class EpochTrainer(FakeOpenAI):
    """The client, and a server that trains.

    Args:
        loss: The validation loss that a job reports at the end of an epoch.
    """

    def __init__(self, loss: Loss = loss_by_rate) -> None:
        self.loss = loss
        self.trained: Counter[str] = Counter()
        """Job → epochs."""
        self.status: dict[str, str] = {}
        self.failing: set[float] = set()
        """Multipliers whose jobs fail after an epoch."""
        super().__init__()
        self.fine_tuning.jobs = _EpochJobs(self)

    def hyperparameters(self, job_id: str) -> Mapping[str, Any]:
        """What was requested."""
        method = self.stored_jobs[job_id].method
        assert method is not None and method.supervised is not None and method.supervised.hyperparameters is not None
        return method.supervised.hyperparameters.model_dump(exclude_none=True)


class _EpochJobs(_Jobs):
    server: EpochTrainer

    def _read(self, job_id: str) -> FineTuningJob:
        server, job = self.server, self.server.stored_jobs.get(job_id)
        if job is None:
            raise status_error(404, message=f"Could not find fine tune: {job_id}")
        status, requested = server.status.setdefault(job_id, "running"), server.hyperparameters(job_id)
        update: dict[str, Any] = {}
        if status == "running":
            server.trained[job_id] += 1
            if float(requested["learning_rate_multiplier"]) in server.failing:
                status = "failed"
                update = {"error": {"code": "server_error", "message": "it broke", "param": None}}
            elif server.trained[job_id] >= int(requested["n_epochs"]):
                status = "succeeded"
                update = {"fine_tuned_model": f"ft:{job.model}:org::{job_id}", "trained_tokens": 1200}
        server.status[job_id] = status
        changed = FineTuningJob.model_validate({**job.model_dump(), **update, "status": "queued"})
        server.stored_jobs[job_id] = changed.model_copy(update={"status": status})
        return server.stored_jobs[job_id]

    def _set(self, call: str, job_id: str, status: str) -> FineTuningJob:
        def execute() -> FineTuningJob:
            if self.server.status.get(job_id) in ENDED:
                raise status_error(400, code="invalid_job_status", message="the job has ended")
            self.server.status[job_id] = status
            return self.server.stored_jobs[job_id].model_copy(update={"status": status})

        return cast(FineTuningJob, self.server.serve(call, execute))

    def pause(self, job_id: str) -> FineTuningJob:
        return self._set("jobs.pause", job_id, "paused")

    def resume(self, job_id: str) -> FineTuningJob:
        return self._set("jobs.resume", job_id, "running")

    def cancel(self, job_id: str) -> FineTuningJob:
        return self._set("jobs.cancel", job_id, "cancelled")

    def list_events(self, job_id: str, *, limit: int) -> SyncCursorPage[FineTuningJobEvent]:
        requested = self.server.hyperparameters(job_id)
        total = int(requested["n_epochs"]) * STEPS_PER_EPOCH
        events = []
        for step in range(1, self.server.trained[job_id] * STEPS_PER_EPOCH + 1):
            data: dict[str, Any] = {"step": step, "total_steps": total, "train_loss": 1 / step}
            if step % STEPS_PER_EPOCH == 0:
                data["full_valid_loss"] = data["valid_loss"] = self.server.loss(requested, step // STEPS_PER_EPOCH)
            events.append(
                FineTuningJobEvent(
                    id=f"ftevent-{job_id}-{step}",
                    created_at=NOW + step,
                    level="info",
                    message=f"Step {step}/{total}",
                    object="fine_tuning.job.event",
                    type="metrics",
                    data=data,
                )
            )
        page = SyncCursorPage[FineTuningJobEvent](data=events[::-1], has_more=False)
        return cast(SyncCursorPage[FineTuningJobEvent], self.server.serve("jobs.list_events", lambda: page))
