"""What the server says about itself: its health, and numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ftpipe
from ftpipe.records.job import TERMINAL_STATUSES
from ftpipe.server.metrics import TEXT_FORMAT, Metric, ServerMetrics, process_metrics, to_text
from ftpipe.server.protocol import ApiRequest, Stream
from ftpipe.server.routes import ModelRoutes
from ftpipe.server.storage import Store
from ftpipe.server.storage.data_dir import DataDirectory

JOB_STATUSES = ("validating_files", "queued", "paused", "running", *sorted(TERMINAL_STATUSES))


class ServerInfoApi:
    """The handlers of ``/health`` and ``/metrics``.

    Args:
        store: The server's database.
        data_dir: The server's folder.
        routes: Knows whether another host that answers for this server works.
        metrics: Counts requests and tokens.
    """

    def __init__(self, store: Store, data_dir: DataDirectory, routes: ModelRoutes, metrics: ServerMetrics) -> None:
        self._store = store
        self._routes = routes
        self._data_dir = data_dir
        self._metrics = metrics

    def health(self, request: ApiRequest) -> Mapping[str, Any]:
        """``ok`` if the database can be read; otherwise the response is an error.

        If the server has keys, only a request with one gets the numbers of jobs.
        """
        with self._store.read() as tx:
            jobs = tx.jobs.open()
        health = {"status": "ok", "version": ftpipe.__version__, "data_dir_id": self._data_dir.fingerprint}
        health |= self._routes.health()
        counts = {"running": sum(job.has_trainer for job in jobs), "open": len(jobs)}
        return health | ({"jobs": counts} if request.owner else {})

    def metrics(self, _request: ApiRequest) -> Stream:
        """The numbers of all owners together."""
        jobs = Metric("ftpipe_jobs", "gauge", "Fine-tuning jobs by status.")
        with self._store.read() as tx:
            counts = tx.jobs.count_by_status()
        for status in JOB_STATUSES:
            jobs.add(counts.get(status, 0), status=status)
        info = Metric("ftpipe_info", "gauge", "Version of ftpipe.")
        info.add(1, version=ftpipe.__version__)
        collected = [info, *self._metrics.collect(), jobs, *process_metrics(self._metrics.started_at)]
        return Stream(iter([to_text(collected)]), TEXT_FORMAT)
