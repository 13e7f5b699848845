"""The server's routes: for each method of a path its handler, how it runs, and what the API description says of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ftpipe.server.api import (
    batches,
    files,
    jobs,
    objects,
    permissions,
    response_objects,
    responses,
    schemas,
    stored_completions,
)
from ftpipe.server.api.batch_objects import BatchObject
from ftpipe.server.api.chat_schemas import ChatRequest
from ftpipe.server.api.completion_schemas import CompletionRequest
from ftpipe.server.api.graders import RunRequest, ValidateRequest
from ftpipe.server.api.response_schemas import ConversationRequest, CreateResponse
from ftpipe.server.api.row_losses import LossesForm
from ftpipe.server.http.api_description import ApiDescription
from ftpipe.server.http.chat_endpoint import ChatEndpoint
from ftpipe.server.http.endpoint import Endpoint, FileForm, TransactionMode
from ftpipe.server.http.middleware import ROUTE_SCOPE_KEY
from ftpipe.server.http.operation import (
    FLAG,
    METADATA,
    SEQUENCE_NUMBER,
    TEXT,
    Operation,
    generation,
    page_query,
)
from ftpipe.server.http.request_queue import QueueLimits, RequestQueue
from ftpipe.server.http.urls import DEPLOYMENT_SCOPE_KEY
from ftpipe.server.services import ServerContext

FILES, UPLOADS, JOBS = "/v1/files", "/v1/uploads", "/v1/fine_tuning/jobs"
FILE, UPLOAD, JOB = f"{FILES}/{{file_id}}", f"{UPLOADS}/{{upload_id}}", f"{JOBS}/{{job_id}}"
PERMISSIONS = "/v1/fine_tuning/checkpoints/{checkpoint}/permissions"
GRADERS = "/v1/fine_tuning/alpha/graders"
MODELS = "/v1/models"
COMPLETIONS = "/v1/chat/completions"
COMPLETION = f"{COMPLETIONS}/{{completion_id}}"
RESPONSES = "/v1/responses"
RESPONSE = f"{RESPONSES}/{{response_id}}"
BATCHES = "/v1/batches"
BATCH = f"{BATCHES}/{{batch_id}}"
MAX_CONCURRENT_GRADERS = 2
"""Graders that run at the same time; they use the processor that chat and the other requests need."""
MAX_CONCURRENT_LOSSES = 4

DELETED = Operation(result=objects.DeletedObject)


class ApiRoute(Route):
    """One path with an endpoint per method, so that the response to another method lists all of them.

    Args:
        path: The path.
        endpoints: The endpoints by method.

    Attributes:
        described: The endpoint of this server for each method.
    """

    def __init__(self, path: str, **endpoints: Endpoint | ChatEndpoint) -> None:
        async def dispatch(request: Request) -> Response:
            request.scope[ROUTE_SCOPE_KEY] = path
            if DEPLOYMENT_SCOPE_KEY in request.scope and request.method != "POST":
                raise HTTPException(405, headers={"Allow": "POST"})  # a list would be that of all models
            return await endpoints["GET" if request.method == "HEAD" else request.method].handle(request)

        super().__init__(path, dispatch, methods=list(endpoints))
        self.described: Mapping[str, Endpoint] = {
            method: endpoint.local if isinstance(endpoint, ChatEndpoint) else endpoint
            for method, endpoint in endpoints.items()
        }


class RouteTable:
    """Makes the routes of a server.

    Args:
        context: The server.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._read = partial(Endpoint, context=context, mode=TransactionMode.READ)
        self._write = partial(Endpoint, context=context, mode=TransactionMode.WRITE)
        self._free = partial(Endpoint, context=context, mode=TransactionMode.NONE)
        self._generate = self._queued("generation", context.settings.max_num_seqs)

    def routes(self) -> list[ApiRoute]:
        """All routes, in the order in which they are tried."""
        routes: list[ApiRoute] = []
        description = ApiDescription(routes, needs_key=bool(self._context.api_keys.digests))
        document = self._free(handler=description.retrieve, operation=Operation(result=dict[str, Any]), is_public=True)
        routes += [
            ApiRoute("/openapi.json", GET=document),
            *self._info_routes(),
            *self._file_routes(),
            *self._job_routes(),
            *self._checkpoint_routes(),
            *self._model_routes(),
            *self._completion_routes(),
            *self._response_routes(),
            *self._batch_routes(),
            *([] if self._context.settings.upstream else [self._losses_route()]),
        ]
        return routes

    def _info_routes(self) -> list[ApiRoute]:
        info = self._context.server_info
        health = self._free(handler=info.health, operation=Operation(result=objects.Health), is_public=True)
        metrics = self._free(handler=info.metrics, operation=Operation(media_types=("text/plain",)))
        return [
            ApiRoute("/health", GET=health),
            ApiRoute("/healthz", GET=health),
            ApiRoute("/metrics", GET=metrics),
        ]

    def _file_routes(self) -> list[ApiRoute]:
        files_api, uploads, settings = self._context.files, self._context.uploads, self._context.settings
        read, write = self._read, self._write
        file_form = FileForm("file", settings.max_file_bytes)
        part_form = FileForm("data", settings.max_part_bytes)
        file, upload = Operation(result=objects.FileObject), Operation(result=objects.UploadObject)
        created = Operation(body=schemas.CreateFile, result=objects.FileObject)
        query = page_query(files.MAX_LIMIT, files.MAX_LIMIT, "desc", "asc", purpose=TEXT)
        listed = Operation(result=objects.Page[objects.FileObject], query=query)
        content = Operation(media_types=("application/octet-stream", "text/plain"))
        begun = Operation(body=schemas.CreateUpload, result=objects.UploadObject)
        part = Operation(result=objects.UploadPartObject)
        completed = Operation(body=schemas.CompleteUpload, result=objects.UploadObject)
        return [
            ApiRoute(
                FILES,
                POST=write(handler=files_api.create, operation=created, form=file_form),
                GET=read(handler=files_api.list, operation=listed),
            ),
            ApiRoute(
                FILE,
                GET=read(handler=files_api.retrieve, operation=file),
                DELETE=write(handler=files_api.delete, operation=DELETED),
            ),
            ApiRoute(f"{FILE}/content", GET=read(handler=files_api.content, operation=content)),
            ApiRoute(UPLOADS, POST=write(handler=uploads.create, operation=begun)),
            ApiRoute(f"{UPLOAD}/parts", POST=write(handler=uploads.add_part, operation=part, form=part_form)),
            ApiRoute(f"{UPLOAD}/complete", POST=self._free(handler=uploads.complete, operation=completed)),
            ApiRoute(f"{UPLOAD}/cancel", POST=write(handler=uploads.cancel, operation=upload)),
        ]

    def _job_routes(self) -> list[ApiRoute]:
        api, read, write = self._context.jobs, self._read, self._write
        job = Operation(result=objects.JobObject)
        created = Operation(body=schemas.CreateJob, result=objects.JobObject)
        listed = Operation(
            result=objects.PlainPage[objects.JobObject], query=page_query(20, jobs.MAX_LIMIT, metadata=METADATA)
        )
        events = Operation(result=objects.PlainPage[objects.JobEvent], query=page_query(20, jobs.MAX_LIMIT))
        checkpoints = Operation(
            result=objects.NullablePage[objects.CheckpointObject], query=page_query(10, jobs.MAX_LIMIT)
        )
        return [
            ApiRoute(
                JOBS,
                POST=write(handler=api.create, operation=created),
                GET=read(handler=api.list, operation=listed),
            ),
            ApiRoute(
                JOB,
                GET=read(handler=api.retrieve, operation=job),
                DELETE=write(handler=api.delete, operation=DELETED),
            ),
            ApiRoute(f"{JOB}/cancel", POST=write(handler=api.cancel, operation=job)),
            ApiRoute(f"{JOB}/pause", POST=write(handler=api.pause, operation=job)),
            ApiRoute(f"{JOB}/resume", POST=write(handler=api.resume, operation=job)),
            ApiRoute(f"{JOB}/events", GET=read(handler=api.events, operation=events)),
            ApiRoute(f"{JOB}/checkpoints", GET=read(handler=api.checkpoints, operation=checkpoints)),
        ]

    def _checkpoint_routes(self) -> list[ApiRoute]:
        api, graders, read, write = self._context.permissions, self._context.graders, self._read, self._write
        page = objects.NullablePage[objects.PermissionObject]
        query = page_query(10, permissions.MAX_LIMIT, "descending", "ascending", project_id=TEXT)
        granted = Operation(body=schemas.CreatePermissions, result=page)
        run = Operation(body=RunRequest, result=objects.GraderRun)
        validated = Operation(body=ValidateRequest, result=objects.GraderValidation)
        grade = self._queued("graders", MAX_CONCURRENT_GRADERS)
        return [
            ApiRoute(
                PERMISSIONS,
                POST=write(handler=api.create, operation=granted),
                GET=read(handler=api.list, operation=Operation(result=page, query=query)),
            ),
            ApiRoute(f"{PERMISSIONS}/{{permission_id}}", DELETE=write(handler=api.delete, operation=DELETED)),
            ApiRoute(f"{GRADERS}/run", POST=grade(handler=graders.run, operation=run)),
            ApiRoute(f"{GRADERS}/validate", POST=grade(handler=graders.validate, operation=validated)),
        ]

    def _model_routes(self) -> list[ApiRoute]:
        api, read, write = self._context.models, self._read, self._write
        limits = Operation(result=dict[str, objects.ModelLimits])
        return [
            ApiRoute("/v1/fine_tuning/model_limits", GET=read(handler=api.limits, operation=limits)),
            ApiRoute(MODELS, GET=read(handler=api.list, operation=Operation(result=objects.ModelList))),
            ApiRoute(
                f"{MODELS}/{{model:path}}",
                GET=read(handler=api.retrieve, operation=Operation(result=objects.ModelObject)),
                DELETE=write(handler=api.delete, operation=DELETED),
            ),
        ]

    def _completion_routes(self) -> list[ApiRoute]:
        context, read, write = self._context, self._read, self._write
        stored, completions, chats = context.stored_completions, context.completions, context.chat
        max_forwarded = context.settings.max_forwarded_requests
        forwarded = partial(ChatEndpoint, routes=context.routes, queue=self._queue("forwarding", max_forwarded))
        chat = generation(
            body=ChatRequest, result=objects.ChatCompletion, events=objects.ChatCompletionChunk | objects.ErrorBody
        )
        completion = generation(
            body=CompletionRequest, result=objects.TextCompletion, events=objects.TextCompletion | objects.ErrorBody
        )
        query = page_query(20, stored_completions.MAX_LIMIT, "asc", "desc")
        listed = Operation(
            result=objects.Page[objects.StoredChatCompletion], query={**query, "model": TEXT, "metadata": METADATA}
        )
        messages = Operation(result=objects.Page[objects.StoredMessage], query=query)
        updated = Operation(body=schemas.UpdateCompletion, result=objects.StoredChatCompletion)
        one = Operation(result=objects.StoredChatCompletion)
        create_chat = self._generate(handler=chats.create, load_model=chats.load_model, operation=chat)
        create = self._generate(handler=completions.create, load_model=completions.load_model, operation=completion)
        return [
            ApiRoute(
                COMPLETIONS,
                POST=forwarded(local=create_chat),
                GET=read(handler=stored.list, operation=listed),
            ),
            ApiRoute(
                COMPLETION,
                GET=read(handler=stored.retrieve, operation=one),
                POST=write(handler=stored.update, operation=updated),
                DELETE=write(handler=stored.delete, operation=DELETED),
            ),
            ApiRoute(f"{COMPLETION}/messages", GET=read(handler=stored.messages, operation=messages)),
            ApiRoute("/v1/completions", POST=forwarded(local=create, is_chat=False)),
        ]

    def _response_routes(self) -> list[ApiRoute]:
        api, read, write, free = self._context.responses, self._read, self._write, self._free
        stored = Operation(
            result=response_objects.ResponseObject,
            events=response_objects.ResponseEvent,
            query={"stream": FLAG, "starting_after": SEQUENCE_NUMBER},
        )
        created = Operation(
            body=CreateResponse, result=response_objects.ResponseObject, events=response_objects.ResponseEvent
        )
        counted = Operation(body=ConversationRequest, result=response_objects.InputTokens)
        items = Operation(
            result=objects.Page[response_objects.AnyItem], query=page_query(20, responses.MAX_LIMIT, "desc", "asc")
        )
        one = Operation(result=response_objects.ResponseObject)
        create = self._generate(handler=api.create, load_model=api.load_model, operation=created)
        count = self._generate(handler=api.count_tokens, load_model=api.load_model, operation=counted)
        return [
            ApiRoute(RESPONSES, POST=create),
            ApiRoute(f"{RESPONSES}/input_tokens", POST=count),
            ApiRoute(f"{RESPONSES}/compact", POST=free(handler=api.compact, operation=Operation())),
            ApiRoute(
                RESPONSE,
                GET=read(handler=api.retrieve, operation=stored),
                DELETE=write(handler=api.delete, operation=DELETED),
            ),
            ApiRoute(f"{RESPONSE}/cancel", POST=free(handler=api.cancel, operation=one)),
            ApiRoute(f"{RESPONSE}/input_items", GET=read(handler=api.input_items, operation=items)),
        ]

    def _batch_routes(self) -> list[ApiRoute]:
        api, read, write = self._context.batches, self._read, self._write
        one = Operation(result=BatchObject)
        created = Operation(body=schemas.CreateBatch, result=BatchObject)
        listed = Operation(result=objects.Page[BatchObject], query=page_query(20, batches.MAX_LIMIT))
        return [
            ApiRoute(
                BATCHES,
                POST=write(handler=api.create, operation=created),
                GET=read(handler=api.list, operation=listed),
            ),
            ApiRoute(BATCH, GET=read(handler=api.retrieve, operation=one)),
            ApiRoute(f"{BATCH}/cancel", POST=write(handler=api.cancel, operation=one)),
        ]

    def _losses_route(self) -> ApiRoute:
        score = self._queued("losses", MAX_CONCURRENT_LOSSES)
        form = FileForm("file", self._context.settings.max_file_bytes)
        operation = Operation(body=LossesForm, events=dict[str, Any])
        handler = self._context.row_losses.score
        return ApiRoute("/v1/ftpipe/losses", POST=score(handler=handler, operation=operation, form=form))

    def _queued(self, name: str, max_running: int) -> partial[Endpoint]:
        """Endpoints with a bounded queue and threads for themselves, so that other requests are answered meanwhile."""
        limiter, queue = anyio.CapacityLimiter(max_running), self._queue(name, max_running)
        return partial(self._free, limiter=limiter, queue=queue)

    def _queue(self, name: str, max_running: int) -> RequestQueue:
        """A bounded queue, which the metrics show under a name."""
        queue = RequestQueue(_queue_limits(self._context, max_running))
        self._context.metrics.queues[name] = queue
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
