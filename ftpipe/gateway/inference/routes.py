"""The inference server in place of the engine of this machine: which adapter answers for a model's name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ftpipe.atomic_files import read_json
from ftpipe.gateway.inference.adapters import Adapter
from ftpipe.gateway.inference.fields import CHATS, COMPLETIONS
from ftpipe.gateway.inference.forwarding import InferenceApi
from ftpipe.gateway.inference.server import InferenceServer, InferenceSettings
from ftpipe.server.jobs.validation_process import StartValidation, ValidationProcess
from ftpipe.server.model_resolver import BaseModels, ModelResolver, ResolvedModel, find_tuned
from ftpipe.server.protocol import model_not_found
from ftpipe.server.routes import ModelRoutes, NoRoutes, Route
from ftpipe.server.services import ThisMachine
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import Store, Transaction
from ftpipe.server.storage.data_dir import DataDirectory


class AdapterNames:
    """The names of this server's adapters at an inference server, which other servers can use, too.

    Args:
        data_dir: The server's folder; its marker tells it from others.
    """

    def __init__(self, data_dir: DataDirectory) -> None:
        marker = str((read_json(data_dir.marker) or {}).get("id"))
        self._prefix = f"ftpipe-{hashlib.sha256(marker.encode()).hexdigest()[:8]}-"
        self._pattern = re.compile(re.escape(self._prefix) + r"([A-Za-z0-9_-]+)-(\d{1,9})")

    def name(self, job_id: str, step: int) -> str:
        """The name of a checkpoint's adapter; it has no colon, which SGLang would split it at."""
        return f"{self._prefix}{job_id}-{step}"

    def is_ours(self, name: str) -> bool:
        """Whether this server has loaded an adapter."""
        return self._pattern.fullmatch(name) is not None

    def parse(self, name: str) -> tuple[str, int]:
        """The job and the step of an adapter that is ours."""
        match = self._pattern.fullmatch(name)
        if match is None:
            message = f"{name} is not an adapter of this server"
            raise ValueError(message)
        return match[1], int(match[2])


class InferenceRoutes(ModelRoutes):
    """Sends the chats with all models of this server to an inference server.

    Args:
        settings: Which server it is.
        store: This server's database.
        models: Finds what serves a name.
        data_dir: This server's folder.
        named: Routes that come first.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        store: Store,
        models: ModelResolver,
        data_dir: DataDirectory,
        *,
        named: ModelRoutes | None = None,
    ) -> None:
        self._store = store
        self._models = models
        self._adapter_names = AdapterNames(data_dir)
        self._named = named or NoRoutes()
        self.server = InferenceServer(
            settings,
            is_served=self._is_served,
            is_ours=self._adapter_names.is_ours,
            status_file=data_dir.inference_status,
        )

    def start(self) -> None:
        """Begin to look at the inference server."""
        self._named.start()
        self.server.start()

    def names(self, owner: str) -> list[str]:
        """The names of the command line's routes; models are listed by themselves."""
        return self._named.names(owner)

    def find(self, owner: str, name: str) -> Route:
        """The route of a name; nothing is answered by this server itself.

        Raises:
            ApiError: 404 if the owner has no such model; 503 if its route cannot be used.
        """
        named = self._named.find(owner, name)
        if named is not None and named.upstream is not None:
            return named
        model_name = name if named is None else named.model
        with self._store.read() as tx:
            # whoever sets a route lets every owner of a key chat with its model
            model = self._models.resolve(tx, owner if named is None else None, model_name)
            adapter = None if model is None else self._adapter(tx, model_name, model)
        if model is None or (adapter is None and model_name.startswith("ft:")):
            raise model_not_found(name)
        public_name = model.name(name) if named is None else name
        chats, completions = (InferenceApi(self.server, api, model.base, adapter) for api in (CHATS, COMPLETIONS))
        return Route(public_name, model_name, chats, completions, is_own=True)

    def health(self) -> Mapping[str, Any]:
        """The state of the inference server."""
        return {"inference": self.server.health()}

    async def close(self) -> None:
        """Close the connections."""
        await self._named.close()
        await self.server.close()

    def _adapter(self, tx: Transaction, name: str, model: ResolvedModel) -> Adapter | None:
        job, step = find_tuned(tx, name)
        if model.adapter is None or job is None or step is None:
            return None
        return Adapter(self._adapter_names.name(job.id, step), model.adapter)

    def _is_served(self, adapter_name: str) -> bool:
        """Whether a model or a checkpoint still uses an adapter."""
        job_id, step = self._adapter_names.parse(adapter_name)
        with self._store.read() as tx:
            job = tx.jobs.get(job_id)
            if job is None:
                return False
            if not job.deleted and job.final_step == step:
                return True
            return any(one.step == step and not one.removed for one in tx.checkpoints.for_job(job_id))


class InferenceUpstream(ThisMachine):
    """Trains jobs on this machine, and lets an inference server answer.

    Args:
        settings: How this server runs.
        inference: Which server answers.
        base_models: What is known about base models; those of this machine if ``None``.
        start_validation: Starts the validation of a job's files.
        named: Routes that come first.
    """

    def __init__(
        self,
        settings: ServeSettings,
        inference: InferenceSettings,
        *,
        base_models: BaseModels | None = None,
        start_validation: StartValidation = ValidationProcess,
        named: ModelRoutes | None = None,
    ) -> None:
        super().__init__(settings, base_models, start_validation, named or NoRoutes())
        self._inference = inference
        self._named = named
        self._data_dir = DataDirectory(settings.data_dir.expanduser().absolute())

    def routes(self, store: Store, models: ModelResolver) -> ModelRoutes:
        """The routes of all chats."""
        return InferenceRoutes(self._inference, store, models, self._data_dir, named=self._named)
