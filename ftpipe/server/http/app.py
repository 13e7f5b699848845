"""The server's routes, and the Starlette application with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ftpipe.server.auth import ANY_ORIGIN
from ftpipe.server.http.chat_endpoint import ChatEndpoint
from ftpipe.server.http.endpoint import Endpoint, FileForm, TransactionMode
from ftpipe.server.http.error_handlers import HANDLERS
from ftpipe.server.http.middleware import ROUTE_SCOPE_KEY, RequestGuardMiddleware
from ftpipe.server.http.request_queue import QueueLimits, RequestQueue
from ftpipe.server.http.urls import UrlMiddleware
from ftpipe.server.memory import release_memory_regularly
from ftpipe.server.services import ServerContext

FILES, UPLOADS, JOBS = "/v1/files", "/v1/uploads", "/v1/fine_tuning/jobs"
FILE, UPLOAD, JOB = f"{FILES}/{{file_id}}", f"{UPLOADS}/{{upload_id}}", f"{JOBS}/{{job_id}}"
PERMISSIONS = "/v1/fine_tuning/checkpoints/{checkpoint}/permissions"
COMPLETIONS = "/v1/chat/completions"
RESPONSES = "/v1/responses"
RESPONSE = f"{RESPONSES}/{{response_id}}"
BATCHES = "/v1/batches"
GRADERS = "/v1/fine_tuning/alpha/graders"
CORS_METHODS = ("GET", "POST", "DELETE")
MAX_CONCURRENT_GRADERS = 2
MAX_CONCURRENT_LOSSES = 4
"""Graders that run at the same time; they use the processor that chat and the other requests need."""


def create_app(context: ServerContext) -> Starlette:
    """The server as an ASGI application; its lifespan runs the jobs."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        context.start()
        context.routes.start()
        release = asyncio.create_task(release_memory_regularly())
        yield
        release.cancel()
        context.close()
        await context.routes.close()

    return Starlette(
        routes=_routes(context),
        middleware=[
            Middleware(RequestGuardMiddleware, host_policy=context.host_policy, metrics=context.metrics),
            *_cors(context),
            Middleware(UrlMiddleware),
        ],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )


def _cors(context: ServerContext) -> list[Middleware]:
    """What lets web pages of allowed origins read responses; the host policy has refused all others before."""
    origins = context.host_policy.origins
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=CORS_METHODS,
            allow_headers=["*"],
            allow_credentials=ANY_ORIGIN not in origins,
            allow_private_network=True,
            expose_headers=["x-request-id", "retry-after", "idempotent-replayed"],
        )
    ]


def _routes(context: ServerContext) -> list[Route]:
    """All routes, in the order in which they are tried."""
    read = partial(Endpoint, context=context, mode=TransactionMode.READ)
    write = partial(Endpoint, context=context, mode=TransactionMode.WRITE)
    free = partial(Endpoint, context=context, mode=TransactionMode.NONE)
    generate = _queued(free, context, "generation", context.settings.max_concurrent_requests)
    score = _queued(free, context, "losses", MAX_CONCURRENT_LOSSES)
    grade = _queued(free, context, "graders", MAX_CONCURRENT_GRADERS)
    info = context.server_info
    health = free(handler=info.health, is_public=True)
    files, uploads, jobs, models = context.files, context.uploads, context.jobs, context.models
    file_form = FileForm("file", context.settings.max_file_bytes)
    part_form = FileForm("data", context.settings.max_part_bytes)
    losses = _route("/v1/ftpipe/losses", POST=score(handler=context.row_losses.score, form=file_form))
    return [
        _route("/health", GET=health),
        _route("/healthz", GET=health),
        _route("/metrics", GET=free(handler=info.metrics)),
        _route(FILES, POST=write(handler=files.create, form=file_form), GET=read(handler=files.list)),
        _route(FILE, GET=read(handler=files.retrieve), DELETE=write(handler=files.delete)),
        _route(f"{FILE}/content", GET=read(handler=files.content)),
        _route(UPLOADS, POST=write(handler=uploads.create)),
        _route(f"{UPLOAD}/parts", POST=write(handler=uploads.add_part, form=part_form)),
        _route(f"{UPLOAD}/complete", POST=free(handler=uploads.complete)),
        _route(f"{UPLOAD}/cancel", POST=write(handler=uploads.cancel)),
        _route(JOBS, POST=write(handler=jobs.create), GET=read(handler=jobs.list)),
        _route(JOB, GET=read(handler=jobs.retrieve), DELETE=write(handler=jobs.delete)),
        _route(f"{JOB}/cancel", POST=write(handler=jobs.cancel)),
        _route(f"{JOB}/pause", POST=write(handler=jobs.pause)),
        _route(f"{JOB}/resume", POST=write(handler=jobs.resume)),
        _route(f"{JOB}/events", GET=read(handler=jobs.events)),
        _route(f"{JOB}/checkpoints", GET=read(handler=jobs.checkpoints)),
        _route(
            PERMISSIONS,
            POST=write(handler=context.permissions.create),
            GET=read(handler=context.permissions.list),
        ),
        _route(f"{PERMISSIONS}/{{permission_id}}", DELETE=write(handler=context.permissions.delete)),
        _route(f"{GRADERS}/run", POST=grade(handler=context.graders.run)),
        _route(f"{GRADERS}/validate", POST=free(handler=context.graders.validate)),
        _route("/v1/fine_tuning/model_limits", GET=read(handler=models.limits)),
        _route("/v1/models", GET=read(handler=models.list)),
        _route("/v1/models/{model:path}", GET=read(handler=models.retrieve), DELETE=write(handler=models.delete)),
        *_completion_routes(context, generate),
        *_response_routes(context, generate),
        *([] if context.settings.upstream else [losses]),
    ]


def _completion_routes(context: ServerContext, generate: partial[Endpoint]) -> list[Route]:
    read = partial(Endpoint, context=context, mode=TransactionMode.READ)
    write = partial(Endpoint, context=context, mode=TransactionMode.WRITE)
    stored, batches = context.stored_completions, context.batches
    forwarded = partial(
        ChatEndpoint,
        routes=context.routes,
        queue=_queue(context, "forwarding", context.settings.max_forwarded_requests),
    )
    chat = generate(handler=context.chat.create, load_model=context.chat.load_model)
    completion = generate(handler=context.completions.create, load_model=context.completions.load_model)
    return [
        _route(COMPLETIONS, POST=forwarded(local=chat), GET=read(handler=stored.list)),
        _route(
            f"{COMPLETIONS}/{{completion_id}}",
            GET=read(handler=stored.retrieve),
            POST=write(handler=stored.update),
            DELETE=write(handler=stored.delete),
        ),
        _route(f"{COMPLETIONS}/{{completion_id}}/messages", GET=read(handler=stored.messages)),
        _route("/v1/completions", POST=forwarded(local=completion, is_chat=False)),
        _route(BATCHES, POST=write(handler=batches.create), GET=read(handler=batches.list)),
        _route(f"{BATCHES}/{{batch_id}}", GET=read(handler=batches.retrieve)),
        _route(f"{BATCHES}/{{batch_id}}/cancel", POST=write(handler=batches.cancel)),
    ]


def _response_routes(context: ServerContext, generate: partial[Endpoint]) -> list[Route]:
    responses = context.responses
    read = partial(Endpoint, context=context, mode=TransactionMode.READ)
    write = partial(Endpoint, context=context, mode=TransactionMode.WRITE)
    free = partial(Endpoint, context=context, mode=TransactionMode.NONE)
    return [
        _route(RESPONSES, POST=generate(handler=responses.create, load_model=responses.load_model)),
        _route(
            f"{RESPONSES}/input_tokens",
            POST=generate(handler=responses.count_tokens, load_model=responses.load_model),
        ),
        _route(f"{RESPONSES}/compact", POST=free(handler=responses.compact)),
        _route(RESPONSE, GET=read(handler=responses.retrieve), DELETE=write(handler=responses.delete)),
        _route(f"{RESPONSE}/cancel", POST=free(handler=responses.cancel)),
        _route(f"{RESPONSE}/input_items", GET=read(handler=responses.input_items)),
    ]


def _queued(endpoint: partial[Endpoint], context: ServerContext, name: str, max_running: int) -> partial[Endpoint]:
    """Endpoints with a bounded queue and threads for themselves, so that other requests are answered meanwhile."""
    queue = _queue(context, name, max_running)
    return partial(endpoint, limiter=anyio.CapacityLimiter(max_running), queue=queue)


def _queue(context: ServerContext, name: str, max_running: int) -> RequestQueue:
    """A bounded queue, which the metrics show under a name."""
    queue = RequestQueue(_queue_limits(context, max_running))
    context.metrics.queues[name] = queue
    return queue


def _queue_limits(context: ServerContext, max_running: int) -> QueueLimits:
    settings = context.settings
    has_several_owners = len({owner for _, owner in context.api_keys.digests}) > 1
    return QueueLimits(
        max_running=max_running,
        max_waiting=settings.max_queued_requests,
        max_wait_seconds=settings.max_queue_seconds,
        max_running_per_owner=max(1, max_running // 2) if has_several_owners else max_running,
        max_waiting_per_owner=(settings.max_queued_requests + 1) // 2
        if has_several_owners
        else settings.max_queued_requests,
    )


def _route(path: str, **endpoints: Endpoint | ChatEndpoint) -> Route:
    """One path with an endpoint per method, so that the response to another method lists all of them."""

    async def dispatch(request: Request) -> Response:
        request.scope[ROUTE_SCOPE_KEY] = path
        return await endpoints["GET" if request.method == "HEAD" else request.method].handle(request)

    return Route(path, dispatch, methods=list(endpoints))
