"""The server put together: store, folders, handlers and the supervisor, without any web framework."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ftpipe.server.catalog import Bases, Catalog, LocalBases
from ftpipe.server.chat import Chat, Engine
from ftpipe.server.checking import Checker, CheckFile
from ftpipe.server.dataset_check import check_dataset
from ftpipe.server.disk import Layout
from ftpipe.server.files import Files
from ftpipe.server.graders import Graders
from ftpipe.server.idempotency import InFlight
from ftpipe.server.jobs import Jobs
from ftpipe.server.limits import Limits
from ftpipe.server.owners import Gate, Keys, open_gate, read_keys
from ftpipe.server.permissions import Permissions
from ftpipe.server.settings import ServeSettings
from ftpipe.server.store import Store, open_store
from ftpipe.server.supervisor import Supervisor
from ftpipe.server.sweep import remove_orphans
from ftpipe.server.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Ports:
    """What can be put in another's place; ``None`` takes the real one."""

    open_engine: Callable[[], Engine] | None = None
    bases: Bases | None = None
    check_file: CheckFile | None = None


@dataclass(frozen=True, slots=True)
class House:
    """Everything that answers requests."""

    settings: ServeSettings
    layout: Layout
    store: Store
    keys: Keys
    gate: Gate
    in_flight: InFlight
    supervisor: Supervisor
    files: Files
    uploads: Uploads
    jobs: Jobs
    models: Catalog
    chat: Chat
    permissions: Permissions
    graders: Graders
    limits: Limits

    @property
    def data_dir_id(self) -> str:
        """Names the data folder without showing its path."""
        return hashlib.sha256(str(self.layout.root.resolve()).encode()).hexdigest()[:16]

    def open(self) -> None:
        """Clean up after a crash and start working on jobs."""
        remove_orphans(self.store, self.layout)
        self.supervisor.start()

    def close(self) -> None:
        """Bring trainers to rest and give the database back."""
        self.supervisor.stop()
        self.store.close()


def build(settings: ServeSettings, ports: Ports | None = None) -> House:
    """Put a server together; nothing runs yet.

    Raises:
        StateError: If the data folder or its database cannot be used.
        ConfigError: If the key file is at fault.
    """
    ports = ports or Ports()
    layout = Layout(settings.data_dir.expanduser().absolute())
    layout.prepare()
    store = open_store(layout.database)
    catalog = Catalog(layout, ports.bases or LocalBases(settings.models_dir, stand_ins=settings.stand_ins))
    supervisor = Supervisor(store, layout, settings, Checker(ports.check_file or check_dataset))
    return House(
        settings=settings,
        layout=layout,
        store=store,
        keys=read_keys(settings.api_key_file),
        gate=open_gate(settings.host, settings.allowed_hosts),
        in_flight=InFlight(),
        supervisor=supervisor,
        files=Files(layout),
        uploads=Uploads(store, layout, settings),
        jobs=Jobs(layout, catalog, settings, supervisor.wake),
        models=catalog,
        chat=Chat(store, catalog, ports.open_engine or _Once(settings)),
        permissions=Permissions(),
        graders=Graders(),
        limits=Limits(catalog, settings),
    )


class _Once:
    """Opens the real engine at the first chat; importing it loads torch."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    def __call__(self) -> Engine:
        with self._lock:
            if self._engine is None:
                # Read when torch loads: its threads shall sleep while they wait, for a trainer may run beside us.
                os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
                os.environ.setdefault("KMP_BLOCKTIME", "0")
                from ftpipe.server.engine import Engine as RealEngine

                settings = self._settings
                self._engine = RealEngine(models_dir=settings.models_dir, max_resident=settings.max_resident)
        return self._engine
