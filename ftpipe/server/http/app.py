"""Every route of the server as one list, and the application made of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from ftpipe.server.api.health import HealthApi
from ftpipe.server.api.row_losses import RowLossesApi
from ftpipe.server.http.endpoint import Endpoint, MethodRouter, RouteSpec, TransactionMode
from ftpipe.server.http.error_handlers import HANDLERS
from ftpipe.server.http.middleware import RequestGuardMiddleware
from ftpipe.server.services import ServerContext, ServerOverrides, build_context
from ftpipe.server.settings import ServeSettings

JOB = "/v1/fine_tuning/jobs/{job_id}"
CHECKPOINT_PERMISSIONS_PATH = "/v1/fine_tuning/checkpoints/{checkpoint}/permissions"
FILE, UPLOAD = "/v1/files/{file_id}", "/v1/uploads/{upload_id}"


def route_table(context: ServerContext) -> tuple[RouteSpec, ...]:
    """All routes, in the order in which they are tried."""
    read, write, free = TransactionMode.READ, TransactionMode.WRITE, TransactionMode.NONE
    limits = context.settings
    return (
        RouteSpec("GET", "/health", free, HealthApi(context).get, public=True),
        RouteSpec(
            "POST", "/v1/files", write, context.files.create, file_field="file", max_file_bytes=limits.max_file_bytes
        ),
        RouteSpec("GET", "/v1/files", read, context.files.list),
        RouteSpec("GET", FILE, read, context.files.retrieve),
        RouteSpec("DELETE", FILE, write, context.files.delete),
        RouteSpec("GET", FILE + "/content", read, context.files.content),
        RouteSpec("POST", "/v1/uploads", write, context.uploads.create),
        RouteSpec(
            "POST",
            UPLOAD + "/parts",
            write,
            context.uploads.add_part,
            file_field="data",
            max_file_bytes=limits.max_part_bytes,
        ),
        RouteSpec("POST", UPLOAD + "/complete", free, context.uploads.complete),
        RouteSpec("POST", UPLOAD + "/cancel", write, context.uploads.cancel),
        RouteSpec("POST", "/v1/fine_tuning/jobs", write, context.jobs.create),
        RouteSpec("GET", "/v1/fine_tuning/jobs", read, context.jobs.list),
        RouteSpec("GET", JOB, read, context.jobs.retrieve),
        RouteSpec("POST", JOB + "/cancel", write, context.jobs.cancel),
        RouteSpec("POST", JOB + "/pause", write, context.jobs.pause),
        RouteSpec("POST", JOB + "/resume", write, context.jobs.resume),
        RouteSpec("GET", JOB + "/events", read, context.jobs.events),
        RouteSpec("GET", JOB + "/checkpoints", read, context.jobs.checkpoints),
        RouteSpec("POST", CHECKPOINT_PERMISSIONS_PATH, write, context.permissions.create),
        RouteSpec("GET", CHECKPOINT_PERMISSIONS_PATH, read, context.permissions.list),
        RouteSpec("DELETE", CHECKPOINT_PERMISSIONS_PATH + "/{permission_id}", write, context.permissions.delete),
        RouteSpec("POST", "/v1/fine_tuning/alpha/graders/run", free, context.graders.run),
        RouteSpec("POST", "/v1/fine_tuning/alpha/graders/validate", free, context.graders.validate),
        RouteSpec("GET", "/v1/fine_tuning/model_limits", read, context.limits.get),
        RouteSpec("GET", "/v1/models", read, context.models.list),
        RouteSpec("GET", "/v1/models/{model:path}", read, context.models.retrieve),
        RouteSpec("DELETE", "/v1/models/{model:path}", write, context.models.delete),
        RouteSpec("POST", "/v1/chat/completions", free, context.chat.create, long_running=True),
        RouteSpec("GET", "/v1/chat/completions", read, context.chat.list),
        RouteSpec(
            "POST",
            "/v1/ftpipe/losses",
            free,
            RowLossesApi(context).score,
            file_field="file",
            max_file_bytes=limits.max_file_bytes,
            long_running=True,
        ),
    )


def create_app(settings: ServeSettings, overrides: ServerOverrides | None = None) -> Starlette:
    """The server as an ASGI application; its lifespan runs the jobs.

    Raises:
        LocalStateError: If the data folder or its database cannot be used.
        ConfigError: If the key file is at fault.
    """
    return create_asgi_app(build_context(settings, overrides))


def create_asgi_app(context: ServerContext) -> Starlette:
    """A house as an ASGI application."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        context.start()
        yield
        context.close()

    by_path: dict[str, MethodRouter] = {}
    for entry in route_table(context):
        by_path.setdefault(entry.path, MethodRouter()).add(Endpoint(entry, context))
    routes = [Route(path, junction.answer, methods=junction.methods) for path, junction in by_path.items()]
    return Starlette(
        routes=routes,
        middleware=[Middleware(RequestGuardMiddleware, gate=context.host_policy)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
