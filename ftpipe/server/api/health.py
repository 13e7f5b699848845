"""``/health``: is the server well, and which one is it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ftpipe.server.protocol import ApiRequest

if TYPE_CHECKING:
    from ftpipe.server.services import ServerContext


class HealthApi:
    """The handler of ``/health``.

    Args:
        house: The server.
    """

    def __init__(self, house: ServerContext) -> None:
        self._house = house

    def get(self, _call: ApiRequest) -> Mapping[str, Any]:
        """Says ok once the database answers; a database that does not is an error answer."""
        with self._house.store.read() as tx:
            jobs = tx.jobs.open()
        return {
            "status": "ok",
            "version": own_version(),
            "data_dir_id": self._house.data_dir_id,
            "jobs": {"running": sum(job.has_trainer for job in jobs), "open": len(jobs)},
        }


def own_version() -> str:
    """The version of the installed ftpipe."""
    try:
        return version("ftpipe")
    except PackageNotFoundError:
        return "0"
