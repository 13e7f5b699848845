"""The server put together: store, folders, handlers and the supervisor, without any web framework."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ftpipe.server.api.chat import ChatCompletionsApi, GenerationBackend
from ftpipe.server.api.files import FilesApi
from ftpipe.server.api.graders import GradersApi
from ftpipe.server.api.jobs import JobsApi
from ftpipe.server.api.models import ModelLimitsApi
from ftpipe.server.api.permissions import PermissionsApi
from ftpipe.server.api.uploads import UploadsApi
from ftpipe.server.auth import ApiKeys, HostPolicy, build_host_policy, load_api_keys
from ftpipe.server.idempotency import InFlightKeys
from ftpipe.server.jobs.file_validation import FileValidator, ValidateFile, validate_training_file
from ftpipe.server.jobs.supervisor import Supervisor
from ftpipe.server.model_resolver import BaseModelSource, LocalBaseModels, ModelResolver
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import Store, open_store
from ftpipe.server.storage.cleanup import remove_orphans
from ftpipe.server.storage.data_dir import DataDirectory


@dataclass(frozen=True, slots=True)
class ServerOverrides:
    """What can be put in another's place; ``None`` takes the real one."""

    open_engine: Callable[[], GenerationBackend] | None = None
    base_models: BaseModelSource | None = None
    validate_file: ValidateFile | None = None


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Everything that answers requests."""

    settings: ServeSettings
    data_dir: DataDirectory
    store: Store
    api_keys: ApiKeys
    host_policy: HostPolicy
    in_flight: InFlightKeys
    supervisor: Supervisor
    files: FilesApi
    uploads: UploadsApi
    jobs: JobsApi
    models: ModelResolver
    chat: ChatCompletionsApi
    permissions: PermissionsApi
    graders: GradersApi
    limits: ModelLimitsApi

    @property
    def data_dir_id(self) -> str:
        """Names the data folder without showing its path."""
        return hashlib.sha256(str(self.data_dir.root.resolve()).encode()).hexdigest()[:16]

    def start(self) -> None:
        """Clean up after a crash and start working on jobs."""
        remove_orphans(self.store, self.data_dir)
        self.supervisor.start()

    def close(self) -> None:
        """Bring trainers to rest and give the database back."""
        self.supervisor.stop()
        self.store.close()


def build_context(settings: ServeSettings, overrides: ServerOverrides | None = None) -> ServerContext:
    """Put a server together; nothing runs yet.

    Raises:
        LocalStateError: If the data folder or its database cannot be used.
        ConfigError: If the key file is at fault.
    """
    overrides = overrides or ServerOverrides()
    layout = DataDirectory(settings.data_dir.expanduser().absolute())
    layout.prepare()
    store = open_store(layout.database)
    base_models = overrides.base_models or LocalBaseModels(settings.models_dir, substitutes=settings.substitute_models)
    catalog = ModelResolver(layout, base_models)
    supervisor = Supervisor(store, layout, settings, FileValidator(overrides.validate_file or validate_training_file))
    return ServerContext(
        settings=settings,
        data_dir=layout,
        store=store,
        api_keys=load_api_keys(settings.api_key_file),
        host_policy=build_host_policy(settings.host, settings.allowed_hosts),
        in_flight=InFlightKeys(),
        supervisor=supervisor,
        files=FilesApi(layout),
        uploads=UploadsApi(store, layout, settings),
        jobs=JobsApi(layout, catalog, settings, supervisor.wake),
        models=catalog,
        chat=ChatCompletionsApi(store, catalog, overrides.open_engine or _LazyEngine(settings)),
        permissions=PermissionsApi(),
        graders=GradersApi(),
        limits=ModelLimitsApi(catalog, settings),
    )


class _LazyEngine:
    """Opens the real engine at the first chat; importing it loads torch."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._engine: GenerationBackend | None = None

    def __call__(self) -> GenerationBackend:
        with self._lock:
            if self._engine is None:
                # Read when torch loads: its threads shall sleep while they wait, for a trainer may run beside us.
                os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
                os.environ.setdefault("KMP_BLOCKTIME", "0")
                from ftpipe.inference.engine import Engine as RealEngine

                settings = self._settings
                self._engine = RealEngine(models_dir=settings.models_dir, max_loaded_models=settings.max_loaded_models)
        return self._engine
