"""Export runs to MLflow; ``MLFLOW_TRACKING_URI`` names the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ftpipe.errors import ProviderError
from ftpipe.exporters.run import ExportedRun

MAX_METRICS_PER_BATCH = 1000
"""Metrics per request; for parameters and tags the limit is 100. Source: MLflow REST API, runs/log-batch, 3.17."""
MAX_PARAM_CHARACTERS = 500
ID_TAG = "ftpipe.id"


class MlflowExporter:
    """Exports runs to MLflow.

    Args:
        library: The package ``mlflow``.
    """

    def __init__(self, library: Any) -> None:  # noqa: ANN401  # a package without types
        self._mlflow = library

    def send(self, run: ExportedRun, *, project: str) -> str:
        """See ``Exporter``; a run with the same id in its tags is updated."""
        try:
            return self._send(run, project)
        except (self._mlflow.exceptions.MlflowException, OSError) as exc:
            raise ProviderError(
                f"could not export {run.name} to MLflow: {' '.join(str(exc).split())[:300]}",
                f"check that {self._mlflow.get_tracking_uri()} is the right server; MLFLOW_TRACKING_URI names another",
            ) from exc

    def _send(self, run: ExportedRun, project: str) -> str:
        client, entities = self._mlflow.MlflowClient(), self._mlflow.entities
        experiment = client.get_experiment_by_name(project)
        experiment_id = experiment.experiment_id if experiment is not None else client.create_experiment(project)
        existing = client.search_runs([experiment_id], filter_string=f"tags.`{ID_TAG}` = '{run.id}'", max_results=1)
        tags = {ID_TAG: run.id, "ftpipe.kind": run.kind, "ftpipe.group": run.group}
        tags |= {f"ftpipe.{name}": value for name, value in run.tags.items()}
        mlflow_run = existing[0] if existing else client.create_run(experiment_id, run_name=run.name, tags=tags)
        run_id = mlflow_run.info.run_id
        known = mlflow_run.data.params
        params = [
            entities.Param(name, str(value)[:MAX_PARAM_CHARACTERS])
            for name, value in run.params.items()
            if name not in known  # MLflow never changes a parameter
        ]
        new_tags = [entities.RunTag(name, value) for name, value in tags.items()]
        client.log_batch(run_id, params=params, tags=new_tags)
        metrics = [metric for metric in self._metrics(run) if not existing or metric.key in run.scores]
        for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_BATCH])
        if run.report is not None:
            client.log_artifact(run_id, str(run.report))
        client.set_terminated(run_id)
        return f"{self._mlflow.get_tracking_uri()} experiment {project}, run {run_id}"

    def _metrics(self, run: ExportedRun) -> Iterator[Any]:
        metric = self._mlflow.entities.Metric
        now = int(time.time() * 1000)
        for step, values in run.curves:
            for name, value in values.items():
                yield metric(name, value, now, step)
        for name, value in run.scores.items():
            yield metric(name, value, now, 0)
