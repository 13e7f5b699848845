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

    def _send(self, tracked: ExportedRun, project: str) -> str:
        client, entities = self._mlflow.MlflowClient(), self._mlflow.entities
        experiment = client.get_experiment_by_name(project)
        experiment_id = experiment.experiment_id if experiment is not None else client.create_experiment(project)
        found = client.search_runs([experiment_id], filter_string=f"tags.`{ID_TAG}` = '{tracked.id}'", max_results=1)
        tags = {ID_TAG: tracked.id, "ftpipe.kind": tracked.kind, "ftpipe.group": tracked.group}
        tags |= {f"ftpipe.{name}": value for name, value in tracked.tags.items()}
        run = found[0] if found else client.create_run(experiment_id, run_name=tracked.name, tags=tags)
        run_id = run.info.run_id
        known = run.data.params
        params = [
            entities.Param(name, str(value)[:MAX_PARAM_CHARACTERS])
            for name, value in tracked.params.items()
            if name not in known  # MLflow never changes a parameter
        ]
        new_tags = [entities.RunTag(name, value) for name, value in tags.items()]
        client.log_batch(run_id, params=params, tags=new_tags)
        metrics = [] if found else list(self._metrics(tracked))
        metrics += [] if not found else [m for m in self._metrics(tracked) if m.key in tracked.scores]
        for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_BATCH])
        if tracked.report is not None:
            client.log_artifact(run_id, str(tracked.report))
        client.set_terminated(run_id)
        return f"{self._mlflow.get_tracking_uri()} experiment {project}, run {run_id}"

    def _metrics(self, tracked: ExportedRun) -> Iterator[Any]:
        metric = self._mlflow.entities.Metric
        now = int(time.time() * 1000)
        for step, values in tracked.curves:
            for name, value in values.items():
                yield metric(name, value, now, step)
        for name, value in tracked.scores.items():
            yield metric(name, value, now, 0)
