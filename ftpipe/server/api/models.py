"""How many jobs a model may have: ``/fine_tuning/model_limits``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftpipe.server.model_resolver import ModelResolver
from ftpipe.server.protocol import ApiRequest
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import Transaction


class ModelLimitsApi:
    """The handler of ``/fine_tuning/model_limits``.

    Args:
        models: Which models can be trained.
        settings: The limits.
    """

    def __init__(self, models: ModelResolver, settings: ServeSettings) -> None:
        self._models = models
        self._settings = settings

    def get(self, call: ApiRequest, tx: Transaction) -> Mapping[str, Any]:
        """Limits by model, in the shape that a client of OpenAI's route expects.

        Source: second-hand, one client's types; the route is not in the API description, 2026-08-21.
        """
        active = tx.jobs.count_open(call.owner)
        limits = {
            "max_total_jobs": self._settings.max_open_jobs,
            "max_concurrent_jobs": self._settings.max_jobs,
            "active_jobs": active,
        }
        return dict.fromkeys(self._models.base_names(), limits)
