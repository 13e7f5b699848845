"""The Starlette application: routes, middleware, and what runs while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from ftpipe.server.auth import ANY_ORIGIN
from ftpipe.server.http.error_handlers import HANDLERS
from ftpipe.server.http.middleware import RequestGuardMiddleware
from ftpipe.server.http.route_table import RouteTable
from ftpipe.server.http.urls import UrlMiddleware
from ftpipe.server.memory import release_memory_regularly
from ftpipe.server.services import ServerContext

CORS_METHODS = ("GET", "POST", "DELETE")


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
        routes=RouteTable(context).routes(),
        middleware=[
            Middleware(
                RequestGuardMiddleware,
                host_policy=context.host_policy,
                api_keys=context.api_keys,
                metrics=context.metrics,
            ),
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
