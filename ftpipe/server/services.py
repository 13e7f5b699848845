"""The server put together: store, folders, handlers and the supervisor, without any web framework."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ftpipe.server.api.chat import ChatCompletionsApi, GenerationBackend
from ftpipe.server.api.files import Files
from ftpipe.server.api.graders import Graders
from ftpipe.server.api.jobs import JobsApi
from ftpipe.server.api.models import ModelLimitsApi
from ftpipe.server.api.permissions import Permissions
from ftpipe.server.api.uploads import UploadsApi
from ftpipe.server.auth import ApiKeys, HostPolicy, build_host_policy, load_api_keys
from ftpipe.server.idempotency import InFlightKeys
from ftpipe.server.jobs.file_validation import FileValidator, ValidateFile, validate_training_file
from ftpipe.server.jobs.supervisor import Supervisor
from ftpipe.server.model_resolver import BaseModelSource, Catalog, LocalBaseModels
from ftpipe.server.settings import ServeSettings
from ftpipe.server.storage import Store, open_store
from ftpipe.server.storage.cleanup import remove_orphans
from ftpipe.server.storage.data_dir import DataDirectory


@dataclass(frozen=True, slots=True)
class ServerOverrides:
    """What can be put in another's place; ``None`` takes the real one."""

    open_engine: Callable[[], GenerationBackend] | None = None
    bases: BaseModelSource | None = None
    check_file: ValidateFile | None = None


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Everything that answers requests."""

    settings: ServeSettings
    layout: DataDirectory
    store: Store
    keys: ApiKeys
    gate: HostPolicy
    in_flight: InFlightKeys
    supervisor: Supervisor
    files: Files
    uploads: UploadsApi
    jobs: JobsApi
    models: Catalog
    chat: ChatCompletionsApi
    permissions: Permissions
    graders: Graders
    limits: ModelLimitsApi

    @property
    def data_dir_id(self) -> str:
        """Names the data folder without showing its path."""
        return hashlib.sha256(str(self.layout.root.resolve()).encode()).hexdigest()[:16]

    def start(self) -> None:
        """Clean up after a crash and start working on jobs."""
        remove_orphans(self.store, self.layout)
        self.supervisor.start()

    def close(self) -> None:
        """Bring trainers to rest and give the database back."""
        self.supervisor.stop()
        self.store.close()


def build_context(settings: ServeSettings, ports: ServerOverrides | None = None) -> ServerContext:
    """Put a server together; nothing runs yet.

    Raises:
        LocalStateError: If the data folder or its database cannot be used.
        ConfigError: If the key file is at fault.
    """
    ports = ports or ServerOverrides()
    layout = DataDirectory(settings.data_dir.expanduser().absolute())
    layout.prepare()
    store = open_store(layout.database)
    catalog = Catalog(layout, ports.bases or LocalBaseModels(settings.models_dir, stand_ins=settings.stand_ins))
    supervisor = Supervisor(store, layout, settings, FileValidator(ports.check_file or validate_training_file))
    return ServerContext(
        settings=settings,
        layout=layout,
        store=store,
        keys=load_api_keys(settings.api_key_file),
        gate=build_host_policy(settings.host, settings.allowed_hosts),
        in_flight=InFlightKeys(),
        supervisor=supervisor,
        files=Files(layout),
        uploads=UploadsApi(store, layout, settings),
        jobs=JobsApi(layout, catalog, settings, supervisor.wake),
        models=catalog,
        chat=ChatCompletionsApi(store, catalog, ports.open_engine or _LazyEngine(settings)),
        permissions=Permissions(),
        graders=Graders(),
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
                self._engine = RealEngine(models_dir=settings.models_dir, max_resident=settings.max_resident)
        return self._engine
