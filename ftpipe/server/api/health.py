"""``/health``: whether the server works, and which one it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ftpipe
from ftpipe.server.protocol import ApiRequest
from ftpipe.server.routes import ModelRoutes
from ftpipe.server.storage import Store
from ftpipe.server.storage.data_dir import DataDirectory


class HealthApi:
    """The handler of ``/health``.

    Args:
        store: The server's database.
        data_dir: The server's folder.
        routes: Knows whether another host that answers for this server works.
    """

    def __init__(self, store: Store, data_dir: DataDirectory, routes: ModelRoutes) -> None:
        self._store = store
        self._data_dir = data_dir
        self._routes = routes

    def get(self, request: ApiRequest) -> Mapping[str, Any]:
        """``ok`` if the database can be read; otherwise the response is an error.

        If the server has keys, only a request with one gets the numbers of jobs.
        """
        with self._store.read() as tx:
            jobs = tx.jobs.open()
        health = {"status": "ok", "version": ftpipe.__version__, "data_dir_id": self._data_dir.fingerprint}
        health |= self._routes.health()
        counts = {"running": sum(job.has_trainer for job in jobs), "open": len(jobs)}
        return health | ({"jobs": counts} if request.owner else {})
