"""Every route of the server as one list, and the application made of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from ftpipe.server.app.errors import HANDLERS
from ftpipe.server.app.exchange import Entry, Exchange, Junction, Kind
from ftpipe.server.app.porch import Porch
from ftpipe.server.house import House, Ports, build
from ftpipe.server.losses import Losses
from ftpipe.server.settings import ServeSettings
from ftpipe.server.status import Health

JOB = "/v1/fine_tuning/jobs/{job_id}"
SHARED = "/v1/fine_tuning/checkpoints/{checkpoint}/permissions"
FILE, UPLOAD = "/v1/files/{file_id}", "/v1/uploads/{upload_id}"


def entries(house: House) -> tuple[Entry, ...]:
    """All routes, in the order in which they are tried."""
    read, write, free = Kind.READ, Kind.WRITE, Kind.FREE
    limits = house.settings
    return (
        Entry("GET", "/health", free, Health(house).show, open_to_all=True),
        Entry("POST", "/v1/files", write, house.files.create, form="file", most=limits.max_file_bytes),
        Entry("GET", "/v1/files", read, house.files.list),
        Entry("GET", FILE, read, house.files.retrieve),
        Entry("DELETE", FILE, write, house.files.delete),
        Entry("GET", FILE + "/content", read, house.files.content),
        Entry("POST", "/v1/uploads", write, house.uploads.create),
        Entry("POST", UPLOAD + "/parts", write, house.uploads.add_part, form="data", most=limits.max_part_bytes),
        Entry("POST", UPLOAD + "/complete", free, house.uploads.complete),
        Entry("POST", UPLOAD + "/cancel", write, house.uploads.cancel),
        Entry("POST", "/v1/fine_tuning/jobs", write, house.jobs.create),
        Entry("GET", "/v1/fine_tuning/jobs", read, house.jobs.list),
        Entry("GET", JOB, read, house.jobs.retrieve),
        Entry("POST", JOB + "/cancel", write, house.jobs.cancel),
        Entry("POST", JOB + "/pause", write, house.jobs.pause),
        Entry("POST", JOB + "/resume", write, house.jobs.resume),
        Entry("GET", JOB + "/events", read, house.jobs.events),
        Entry("GET", JOB + "/checkpoints", read, house.jobs.checkpoints),
        Entry("POST", SHARED, write, house.permissions.create),
        Entry("GET", SHARED, read, house.permissions.list),
        Entry("DELETE", SHARED + "/{permission_id}", write, house.permissions.delete),
        Entry("POST", "/v1/fine_tuning/alpha/graders/run", free, house.graders.run),
        Entry("POST", "/v1/fine_tuning/alpha/graders/validate", free, house.graders.validate),
        Entry("GET", "/v1/fine_tuning/model_limits", read, house.limits.show),
        Entry("GET", "/v1/models", read, house.models.list),
        Entry("GET", "/v1/models/{model:path}", read, house.models.retrieve),
        Entry("DELETE", "/v1/models/{model:path}", write, house.models.delete),
        Entry("POST", "/v1/chat/completions", free, house.chat.create, slow=True),
        Entry("GET", "/v1/chat/completions", read, house.chat.list),
        Entry(
            "POST", "/v1/ftpipe/losses", free, Losses(house).rank, form="file", most=limits.max_file_bytes, slow=True
        ),
    )


def create_app(settings: ServeSettings, ports: Ports | None = None) -> Starlette:
    """The server as an ASGI application; its lifespan runs the jobs.

    Raises:
        StateError: If the data folder or its database cannot be used.
        ConfigError: If the key file is at fault.
    """
    return application(build(settings, ports))


def application(house: House) -> Starlette:
    """A house as an ASGI application."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        house.open()
        yield
        house.close()

    by_path: dict[str, Junction] = {}
    for entry in entries(house):
        by_path.setdefault(entry.path, Junction()).add(Exchange(entry, house))
    routes = [Route(path, junction.answer, methods=junction.methods) for path, junction in by_path.items()]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Porch, gate=house.gate)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
