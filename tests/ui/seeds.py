"""Records for the pages: runs with jobs, curves, models and evaluations, as many as a test wants."""

from __future__ import annotations

import math
from pathlib import Path

import sqlalchemy as sa

from ftpipe.records import (
    Checkpoint,
    CostEstimate,
    Event,
    Hyperparameters,
    Job,
    Model,
    Run,
    RunSpec,
    RunState,
    TrainingMetrics,
)
from ftpipe.registry import Registry
from ftpipe.registry.tables import events_table, jobs_table, runs_table

STARTED = 1_795_000_000
ENDPOINT = "local:/server"


def run_of(number: int = 1, **changes: object) -> Run:
    """A run without a job."""
    spec = RunSpec(
        provider=str(changes.pop("provider", "local")),
        data=Path(str(changes.pop("data", f"data/train-{number}.jsonl"))),
        model=str(changes.pop("model", "smollm2-135m-instruct")),
        suffix=changes.pop("suffix", f"support-{number}"),
        hyperparameters=Hyperparameters(n_epochs=3),
        seed=7,
    )
    values: dict[str, object] = {
        "id": f"run-{number:012x}",
        "spec": spec,
        "endpoint": ENDPOINT,
        "state": RunState.CREATED,
        "created_at": STARTED + number,
        "dataset_sha256": "ab" * 32,
    }
    return Run.model_validate({**values, **changes})


def job_of(run: Run, status: str = "running", **changes: object) -> Job:
    """The job of a run."""
    values: dict[str, object] = {
        "id": f"ftjob-{run.id[4:]}",
        "endpoint": run.endpoint,
        "provider": run.spec.provider,
        "status": status,
        "model": run.spec.model,
        "training_file": "file-1",
        "created_at": run.created_at,
        "resolved": Hyperparameters(n_epochs=3, batch_size=4, learning_rate=0.0002),
    }
    return Job.model_validate({**values, **changes})


def model_of(run: Run, **changes: object) -> Model:
    """The model of a run."""
    values: dict[str, object] = {
        "id": f"ft:{run.spec.model}:{run.spec.suffix}:{run.id[-6:]}",
        "base": run.spec.model,
        "provider": run.spec.provider,
        "endpoint": run.endpoint,
        "job_id": f"ftjob-{run.id[4:]}",
        "file_id": "file-1",
        "dataset_sha256": run.dataset_sha256,
        "run_id": run.id,
        "created_at": run.created_at,
        "metrics": TrainingMetrics(step=30, train_loss=0.4, valid_loss=0.6),
        "checkpoints": (
            Checkpoint(
                id="c1",
                created_at=1,
                step=20,
                model="ft:x:ckpt-step-20",
                metrics=TrainingMetrics(step=20, valid_loss=0.7),
            ),
        ),
    }
    return Model.model_validate({**values, **changes})


def metric_event(step: int, total: int = 30, /, **values: float) -> Event:
    """The metrics of a step."""
    data = {"step": step, "total_steps": total, "train_loss": 2.0 * math.exp(-step / 15) + 0.3, **values}
    if step % 10 == 0:
        data = {"valid_loss": 2.1 * math.exp(-step / 15) + 0.5, **data}
    return Event(
        id=f"ftevent-{step}", created_at=STARTED + step, level="info", type="metrics", message=f"Step {step}", data=data
    )


def reward_event(step: int, total: int = 30, /) -> Event:
    """The metrics of a step of reinforcement."""
    data: dict[str, object] = {"step": step, "total_steps": total, "train_loss": 0.001, "train_mean_reward": step / 40}
    data |= {"kl": 0.002 * step, "completion_tokens_mean": 12.5, "zero_std_fraction": 0.25, "errors": {"graders": []}}
    if step % 10 == 0:
        data["full_valid_mean_reward"] = 0.9 - abs(20 - step) / 100
    return metric_event(step, total).model_copy(update={"data": data})


def add_run(
    registry: Registry,
    run: Run,
    job: Job | None = None,
    *,
    steps: int = 30,
    model: Model | None = None,
    has_rewards: bool = False,
) -> Run:
    """Save a run, its job with a curve, and its model."""
    registry.runs.start(run, key=run.id, ordinal=0)
    if job is None:
        return run
    registry.jobs.save(job, run_id=run.id)
    run = registry.runs.save(run.model_copy(update={"job": job}))
    message = Event(id="ftevent-message", created_at=STARTED, level="info", message="Training started")
    registry.jobs.save_events(
        job, [message, *((reward_event if has_rewards else metric_event)(step, steps) for step in range(1, steps + 1))]
    )
    if model is not None:
        run = registry.runs.register(model, run, price_row="")
    return run


def succeeded_run(registry: Registry, number: int = 1, **changes: object) -> Run:
    """A run with a model."""
    cost = CostEstimate(
        model="m", epochs=3, epochs_low=3, epochs_high=3, epochs_rule="requested", tokens_per_epoch=400, low=1.0,
        expected=1.2, high=1.4, price_per_million=5.0, price_as_of="2026-11-01", source="a test",
    )  # fmt: skip
    run = run_of(number, cost=cost, **changes)
    job = job_of(run, "succeeded", fine_tuned_model="ft:x", finished_at=run.created_at + 90, trained_tokens=1200)
    return add_run(registry, run, job, model=model_of(run, actual_cost=1.25))


def add_many_runs(registry: Registry, count: int) -> None:
    """Rows of runs and jobs, written at once."""
    template = run_of(1)
    job = job_of(template, "succeeded", fine_tuned_model="ft:x")
    with registry.engine.begin() as connection:
        for first in range(1, count + 1, 1000):
            runs, jobs = [], []
            for number in range(first, min(first + 1000, count + 1)):
                run = run_of(number)
                runs.append(
                    {
                        "id": run.id, "key": run.id, "ordinal": 0, "endpoint": run.endpoint, "state": "created",
                        "spec": run.spec.model_dump_json(), "dataset_sha256": "", "job_id": f"ftjob-{number}",
                        "error": "", "created_at": float(run.created_at), "sequence": number,
                    }
                )  # fmt: skip
                data = job.model_copy(update={"id": f"ftjob-{number}"}).model_dump_json()
                status = "failed" if number % 7 == 0 else "succeeded"
                jobs.append(
                    {
                        "endpoint": run.endpoint, "id": f"ftjob-{number}", "run_id": run.id, "status": status,
                        "data": data, "updated_at": 0.0,
                    }
                )  # fmt: skip
            connection.execute(sa.insert(runs_table), runs)
            connection.execute(sa.insert(jobs_table), jobs)


def add_many_steps(registry: Registry, job: Job, steps: int) -> None:
    """Metric events, written at once."""
    with registry.engine.begin() as connection:
        for first in range(1, steps + 1, 5000):
            rows = [
                {
                    "endpoint": job.endpoint, "job_id": job.id, "id": f"e{step}", "created_at": step, "position": step,
                    "data": metric_event(step, steps, train_loss=1 + math.sin(step) / 3).model_dump_json(),
                }
                for step in range(first, min(first + 5000, steps + 1))
            ]  # fmt: skip
            connection.execute(sa.insert(events_table), rows)
