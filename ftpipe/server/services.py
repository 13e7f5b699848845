"""The server's parts, put together without a web framework: database, handlers and supervisor."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from ftpipe.atomic_files import read_or_create_secret
from ftpipe.modeling.base_models import DEFAULT_BASE, needs_download
from ftpipe.server.api.answers import AnswerGenerator
from ftpipe.server.api.batches import BatchesApi
from ftpipe.server.api.chat import ChatCompletionsApi
from ftpipe.server.api.completions import CompletionsApi
from ftpipe.server.api.files import FilesApi
from ftpipe.server.api.graders import GradersApi
from ftpipe.server.api.jobs import JobsApi
from ftpipe.server.api.models import ModelsApi
from ftpipe.server.api.permissions import PermissionsApi
from ftpipe.server.api.responses import ResponsesApi
from ftpipe.server.api.row_losses import RowLossesApi
from ftpipe.server.api.server_info import ServerInfoApi
from ftpipe.server.api.stored_completions import StoredCompletionsApi
from ftpipe.server.api.text_generation import GenerationBackend, TextGenerator
from ftpipe.server.api.uploads import UploadsApi
from ftpipe.server.auth import ApiKeys, HostPolicy, build_host_policy, load_api_keys, warn_if_readable
from ftpipe.server.batches.runner import BatchRunner
from ftpipe.server.cancellation import ActiveRequests
from ftpipe.server.grader_models import GraderModels
from ftpipe.server.idempotency import InFlightKeys
from ftpipe.server.inference.remote_engine import RemoteEngine
from ftpipe.server.inference.worker import EngineOptions
from ftpipe.server.jobs.grader_requests import GraderRequests
from ftpipe.server.jobs.supervisor import Supervisor
from ftpipe.server.jobs.validation_process import FileValidator, StartValidation, ValidationProcess
from ftpipe.server.metrics import MeteredBackend, ServerMetrics
from ftpipe.server.model_resolver import BaseModels, ModelResolver
from ftpipe.server.protocol import ApiRequest
from ftpipe.server.routed_chats import RoutedChats
from ftpipe.server.routes import ModelRoutes, NoRoutes
from ftpipe.server.settings import ServeSettings
from ftpipe.server.shadow.low_priority import CallerCount
from ftpipe.server.shadow.mirror import ShadowMirror
from ftpipe.server.storage import Store
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.server.storage.recovery import open_or_replace, recover

if TYPE_CHECKING:
    from ftpipe.inference.batch_model import Precision

log = logging.getLogger("ftpipe.server")

WORKER_COMMAND = (sys.executable, "-X", "faulthandler", "-P", "-m", "ftpipe.server.inference.worker")
"""Starts the inference process, without the working directory among the folders from which it imports."""


class JobRunner(Protocol):
    """Carries jobs from the queue to their end, in a thread."""

    def start(self) -> None:
        """Start the thread."""

    def wake(self) -> None:
        """Look at the jobs now."""

    def stop(self) -> None:
        """End the thread; jobs that have not ended continue at the next start."""


class Upstream(Protocol):
    """Where jobs are trained and models answer: another host, or this machine."""

    @property
    def base_models(self) -> BaseModels:
        """The base models there."""

    def runner(
        self, store: Store, data_dir: DataDirectory, settings: ServeSettings, graders: GraderRequests
    ) -> JobRunner:
        """What trains the jobs there."""

    def routes(self, store: Store, models: ModelResolver) -> ModelRoutes:
        """What forwards the chats."""


class ThisMachine:
    """Trains jobs and answers chats here.

    Args:
        settings: How the server runs.
        base_models: What is known about base models; those of this machine if ``None``.
        start_validation: Starts the validation of a job's files.
        routes: Names that are served by models of other names.
    """

    def __init__(
        self,
        settings: ServeSettings,
        base_models: BaseModels | None,
        start_validation: StartValidation,
        routes: ModelRoutes,
    ) -> None:
        self.base_models = base_models or BaseModels(settings.models_dir, substitutes=settings.substitute_models)
        self._start_validation = start_validation
        self._routes = routes

    def runner(
        self, store: Store, data_dir: DataDirectory, settings: ServeSettings, graders: GraderRequests
    ) -> JobRunner:
        """The supervisor of the trainers."""
        return Supervisor(store, data_dir, settings, FileValidator(self._start_validation), graders)

    def routes(self, store: Store, models: ModelResolver) -> ModelRoutes:  # noqa: ARG002  # as in Upstream
        """The routes that were given."""
        return self._routes


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """Everything that requests and jobs need."""

    settings: ServeSettings
    data_dir: DataDirectory
    store: Store
    routes: ModelRoutes
    api_keys: ApiKeys
    host_policy: HostPolicy
    in_flight_keys: InFlightKeys = field(default_factory=InFlightKeys)
    active_requests: ActiveRequests
    supervisor: JobRunner
    metrics: ServerMetrics
    server_info: ServerInfoApi
    engine: GenerationBackend
    files: FilesApi
    uploads: UploadsApi
    jobs: JobsApi
    models: ModelsApi
    chat: ChatCompletionsApi
    completions: CompletionsApi
    stored_completions: StoredCompletionsApi = field(default_factory=StoredCompletionsApi)
    responses: ResponsesApi
    permissions: PermissionsApi = field(default_factory=PermissionsApi)
    graders: GradersApi
    row_losses: RowLossesApi
    batches: BatchesApi
    batch_runner: BatchRunner
    routed_chats: RoutedChats
    shadow: ShadowMirror | None

    def start(self) -> None:
        """Bring folder and database together after a crash, and start working; called in the event loop."""
        recover(self.store, self.data_dir)
        self.supervisor.start()
        self.routed_chats.start()
        self.batch_runner.start()
        if self.shadow is not None:
            self.shadow.start()

    def close(self) -> None:
        """Cancel the requests, end the inference process, stop the trainers, and close the database."""
        self.active_requests.cancel_all()
        if self.shadow is not None:
            self.shadow.stop()
        self.batch_runner.stop()
        self.engine.close()
        self.supervisor.stop()
        self.store.close()


def build_context(
    settings: ServeSettings,
    *,
    engine: GenerationBackend | None = None,
    base_models: BaseModels | None = None,
    start_validation: StartValidation = ValidationProcess,
    routes: ModelRoutes | None = None,
    upstream: Upstream | None = None,
) -> ServerContext:
    """Build the server's components without starting them.

    Args:
        settings: How the server runs.
        engine: Generates answers; the real one, whose process starts at the first chat, if ``None``.
        base_models: What is known about base models; those of this machine if ``None``.
        start_validation: Starts the validation of a job's files.
        routes: Names that are served by models of other names; none if ``None``.
        upstream: Where jobs are trained and models answer; this machine if ``None``.

    Raises:
        LocalStateError: If the data folder or its database cannot be used.
        ConfigError: If the key file is wrong.
    """
    data_dir, store = _open_storage(settings)
    active_requests, callers, metrics = ActiveRequests(), CallerCount(), ServerMetrics()
    upstream = upstream or ThisMachine(settings, base_models, start_validation, routes or NoRoutes())
    models = ModelResolver(data_dir, upstream.base_models)
    routes, backend = upstream.routes(store, models), MeteredBackend(engine or _build_engine(settings), metrics)
    chat, completions, responses = _build_answer_apis(store, routes, TextGenerator(store, models, backend, callers))
    chats = RoutedChats(chat.complete, completions.create, routes)
    handlers, has_model = _batch_handlers(chats, responses), partial(_has_model, store, models, routes)
    runner = BatchRunner(store, data_dir, handlers, has_model, settings.max_body_bytes, active_requests)
    graders = GraderModels(chats, has_model)
    supervisor = upstream.runner(store, data_dir, settings, GraderRequests(graders, active_requests))
    return ServerContext(
        settings=settings,
        data_dir=data_dir,
        store=store,
        routes=routes,
        api_keys=_load_keys(settings),
        host_policy=build_host_policy(settings.host, settings.allowed_hosts, settings.allowed_origins),
        active_requests=active_requests,
        supervisor=supervisor,
        metrics=metrics,
        server_info=ServerInfoApi(store, data_dir, routes, metrics),
        engine=backend,
        files=FilesApi(data_dir),
        uploads=UploadsApi(store, data_dir, settings),
        jobs=JobsApi(data_dir, models, graders, settings, supervisor.wake),
        models=ModelsApi(data_dir, models, settings, routes),
        chat=chat,
        completions=completions,
        responses=responses,
        graders=GradersApi(graders, allow_python=settings.allow_python_graders),
        row_losses=RowLossesApi(store, data_dir, models, settings.models_dir),
        batches=BatchesApi(data_dir, runner.endpoints, runner.wake),
        batch_runner=runner,
        routed_chats=chats,
        shadow=_build_shadow(settings, store, data_dir, chat, chats, callers, active_requests),
    )


def _open_storage(settings: ServeSettings) -> tuple[DataDirectory, Store]:
    data_dir = DataDirectory(settings.data_dir.expanduser().absolute())
    data_dir.prepare()
    return data_dir, open_or_replace(data_dir)


def _build_answer_apis(
    store: Store, routes: ModelRoutes, generator: TextGenerator
) -> tuple[ChatCompletionsApi, CompletionsApi, ResponsesApi]:
    """What answers chats, completions of texts, and responses."""
    chat = ChatCompletionsApi(store, AnswerGenerator(generator))
    return chat, CompletionsApi(routes, generator), ResponsesApi(store, routes, chat)


def _load_keys(settings: ServeSettings) -> ApiKeys:
    warn_if_readable(settings.api_key_file)
    return load_api_keys(settings.api_key_file)


def _batch_handlers(chats: RoutedChats, responses: ResponsesApi) -> dict[str, Callable[[ApiRequest], Any]]:
    """What answers the requests of batches, by endpoint."""
    return {
        "/v1/chat/completions": chats.complete,
        "/v1/completions": chats.complete_text,
        "/v1/responses": responses.create,
    }


def _has_model(store: Store, models: ModelResolver, routes: ModelRoutes, owner: str, name: str) -> bool:
    """Whether an owner can use a model, here or through a route."""
    if name in routes.names(owner):
        return True
    with store.read() as tx:
        return models.resolve(tx, owner, name) is not None


def _build_shadow(
    settings: ServeSettings,
    store: Store,
    data_dir: DataDirectory,
    chat: ChatCompletionsApi,
    models: RoutedChats,
    callers: CallerCount,
    active_requests: ActiveRequests,
) -> ShadowMirror | None:
    """What compares two models, if the settings say so; it gets the answers of chats."""
    if settings.shadow is None:
        return None
    key = read_or_create_secret(data_dir.shadow_key)
    shadow = ShadowMirror(settings.shadow, store, key, models, callers, active_requests)
    chat.on_answer = shadow.offer
    return shadow


def _build_engine(settings: ServeSettings) -> RemoteEngine:
    """The real engine; it has room for the new models of shadow traffic besides those that callers use."""
    shadow_models = len(settings.shadow.pairs) if settings.shadow else 0
    options = EngineOptions(
        models_dir=settings.models_dir.expanduser().absolute(),
        max_loaded_models=settings.max_loaded_models + shadow_models,
        max_num_seqs=settings.max_num_seqs,
        precision=None if settings.precision == "auto" else cast("Precision", settings.precision),
    )
    return RemoteEngine(
        (*WORKER_COMMAND, options.as_json()),
        lambda: needs_download(DEFAULT_BASE, options.models_dir),
    )
