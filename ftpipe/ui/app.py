"""The application of the pages: routes, safety, errors, and what starts and ends with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ftpipe.errors import FtpipeError, ProviderError, UsageError
from ftpipe.server.auth import HostPolicy
from ftpipe.ui.guard import OTHER_OWNER, OTHER_OWNER_HINT, SIGN_IN_PATH, GuardMiddleware, RefusedRequestError, is_htmx
from ftpipe.ui.pages import PAGES
from ftpipe.ui.project import Project
from ftpipe.ui.rendering import Page, form_text, render, url_of
from ftpipe.ui.sessions import Sessions, cookie_name, set_cookie
from ftpipe.ui.streams import Streams

log = logging.getLogger("ftpipe.ui")


def create_app(
    *,
    sessions: Sessions,
    host_policy: HostPolicy,
    find_project: Callable[[str], Project | None],
    free_port_names: Sequence[str] = (),
    pages: Sequence[Page] = PAGES,
    on_close: Callable[[], None] = lambda: None,
) -> Starlette:
    """The pages as an ASGI application; at another path than ``/`` if the scope has a ``root_path``.

    Args:
        sessions: Who may use it.
        host_policy: Which names of this server are allowed.
        find_project: The project of an owner; ``None`` if this server shows none to them.
        free_port_names: Names behind which another port is allowed, as those of a reverse proxy.
        pages: The pages, in the order of the navigation.
        on_close: Called when the server stops.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        app.state.streams.close()
        on_close()

    app = Starlette(
        routes=[
            Route("/", _start, methods=["GET"]),
            Route(SIGN_IN_PATH, _sign_in, methods=["GET", "POST"]),
            Route("/sign-out", _sign_out, methods=["POST"]),
            Route("/link", _create_link, methods=["POST"]),
            *(route for page in pages for route in page.routes),
            Mount("/static", StaticFiles(directory=str(resources.files("ftpipe.ui").joinpath("static")))),
        ],
        middleware=[
            Middleware(
                GuardMiddleware,
                sessions=sessions,
                host_policy=host_policy,
                free_port_names=frozenset(name.lower() for name in free_port_names),
                find_project=find_project,
                on_refused=lambda request, error: _refused(request, error, has_keys=sessions.has_keys),
            )
        ],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    app.state.sessions = sessions
    app.state.find_project = find_project
    app.state.streams = Streams()
    app.state.pages = tuple(pages)
    return app


def _start(request: Request) -> Response:
    return RedirectResponse(url_of(request, request.app.state.pages[0].path), 303)


def _sign_in(request: Request) -> Response:
    sessions: Sessions = request.app.state.sessions
    if not sessions.has_keys:
        return _error(request, 401, "You are not signed in.", "Open the address that `ftpipe ui` has printed.")
    message = ""
    if request.method == "POST":
        cookie = sessions.open_with_key(form_text(request, "key"))
        session = sessions.find(cookie)
        if session is not None and request.app.state.find_project(session.owner) is None:
            sessions.close(cookie)
            return _error(request, 403, OTHER_OWNER, OTHER_OWNER_HINT)
        if cookie is not None:
            response = RedirectResponse(url_of(request, "/"), 303)
            set_cookie(request, response, cookie)
            return response
        message = "This is not one of the server's API keys."
    return render(request, "sign_in.html.j2", http_status=403 if message else 200, message=message)


def _sign_out(request: Request) -> Response:
    sessions: Sessions = request.app.state.sessions
    sessions.close(request.cookies.get(cookie_name(request)))
    response = RedirectResponse(url_of(request, SIGN_IN_PATH), 303)
    response.delete_cookie(cookie_name(request), path=request.scope.get("root_path") or "/")
    return response


def _create_link(request: Request) -> Response:
    """Show a link that opens these pages once in another browser."""
    sessions: Sessions = request.app.state.sessions
    if sessions.has_keys:
        raise UsageError("this server has API keys", "sign in with a key in the other browser")
    link = f"{request.url.scheme}://{request.headers['host']}{url_of(request, '/', token=sessions.create_link_token())}"
    return render(request, "link.html.j2", link=link)


def _refused(request: Request, error: RefusedRequestError, *, has_keys: bool) -> Response:
    # a script would take the page that asks for a key for the part that it wanted
    if error.status == HTTPStatus.UNAUTHORIZED and has_keys and not is_htmx(request.headers):
        return RedirectResponse(url_of(request, SIGN_IN_PATH), 303)
    hint = error.hint
    if error.status == HTTPStatus.UNAUTHORIZED and not hint:
        hint = "Open the address that `ftpipe ui` has printed; if you came from another page, load this one again."
    return _error(request, error.status, error.message, hint)


def _error(request: Request, status: int, message: str, hint: str = "") -> Response:
    return render(request, "error.html.j2", http_status=status, status=status, message=message, hint=hint)


async def _on_ftpipe_error(request: Request, exc: Exception) -> Response:
    error = exc if isinstance(exc, FtpipeError) else FtpipeError(str(exc))
    status = 502 if isinstance(error, ProviderError) else 400 if isinstance(error, UsageError) else 500
    return _error(request, status, error.message, error.hint)


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    detail = exc.detail if isinstance(exc, HTTPException) else ""
    if detail == HTTPStatus(status).phrase:
        detail = "There is no such page." if status == HTTPStatus.NOT_FOUND else detail
    return _error(request, status, detail)


async def _on_unexpected_error(request: Request, exc: Exception) -> Response:
    log.error("a page could not be made", exc_info=exc)
    message = "The page could not be made; this is a bug in ftpipe."
    return _error(request, 500, message, "The terminal of `ftpipe ui` shows what happened.")


HANDLERS: dict[Any, Any] = {
    FtpipeError: _on_ftpipe_error,
    HTTPException: _on_http_exception,
    Exception: _on_unexpected_error,
}
