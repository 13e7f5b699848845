"""Render pages with Jinja2: every text is escaped, and control and direction characters are made visible."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from ftpipe import __version__
from ftpipe.formatting import duration, format_bytes, relative_path
from ftpipe.providers.deadlines import days_left, shutdown_text
from ftpipe.reports.html_templates import html_environment
from ftpipe.ui.guard import is_htmx
from ftpipe.ui.project import Project
from ftpipe.ui.sessions import Session

BREAKS = {":": Markup(":<wbr>"), "/": Markup("/<wbr>"), "_": Markup("_<wbr>")}


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the navigation."""

    title: str
    path: str
    """Path of its first view."""
    routes: tuple[Route, ...]
    """All its routes, in the order in which they are tried."""


def project_of(request: Request) -> Project:
    """The project of a request that has a session."""
    project: Project = request.state.project
    return project


def session_of(request: Request) -> Session | None:
    """The session of a request."""
    return getattr(request.state, "session", None)


def form_of(request: Request) -> FormData:
    """The form of a change, whose token was checked."""
    return getattr(request.state, "form", FormData())


def form_text(request: Request, name: str, limit: int = 10_000) -> str:
    """A field of the form as text, without blanks around it; empty if it is missing."""
    value = form_of(request).get(name, "")
    return value.strip()[:limit] if isinstance(value, str) else ""


def page_number(request: Request, name: str = "page", *, minimum: int = 1) -> int:
    """A whole number of the query, for example of a page of a list; the minimum if it is none."""
    text = request.query_params.get(name, "")
    return max(minimum, int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else minimum


def page_count(total: int, per_page: int) -> int:
    """How many pages a list has; one if it is empty."""
    return max(1, -(-total // per_page))


def url_of(request: Request, path: str, **query: object) -> str:
    """The URL of a page of this server; parameters that are ``None`` or empty are left out."""
    shown = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{request.scope.get('root_path', '')}{path}" + (f"?{urlencode(shown, doseq=True)}" if shown else "")


def render(request: Request, template: str, *, http_status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template as a response.

    Args:
        request: The request.
        template: File below ``templates/``.
        http_status: Status of the response.
        values: What the template shows.
    """
    return HTMLResponse(render_text(request, template, **values), http_status)


def render_text(request: Request, template: str, **values: Any) -> str:
    """Render a template as text, for example as a part of an event."""
    session = session_of(request)
    defaults = {
        "request": request,
        "path": request.scope["path"].removeprefix(request.scope.get("root_path", "")),
        "url": lambda path, **query: url_of(request, path, **query),
        "navigation": getattr(request.app.state, "pages", ()) if "app" in request.scope else (),
        "csrf_token": session.csrf_token if session else "",
        "session": session,
        "is_part": is_htmx(request.headers),
        "now": time.time(),
        "today": dt.datetime.now(dt.UTC).date(),
    }
    html = _environment().get_template(template).render({**defaults, **values})
    return html.encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = html_environment(_template)
    environment.filters |= {
        "breakable": breakable,
        "duration": duration,
        "ago": _ago,
        "size": format_bytes,
        "relative": _relative,
    }
    environment.globals |= {"version": __version__, "days_left": days_left, "shutdown_text": shutdown_text}
    return environment


def _template(name: str) -> str:
    return resources.files("ftpipe.ui").joinpath("templates", name).read_text(encoding="utf-8")


def breakable(text: str) -> Markup:
    """A cleaned name with optional line breaks after its separators."""
    shown = Markup("").join([text])
    for separator, with_break in BREAKS.items():
        shown = with_break.join(shown.split(separator))
    return shown


def _ago(seconds: float | None, now: float) -> str:
    """How long ago something was, in its largest unit: ``3 h ago``."""
    return "–" if seconds is None else " ".join([*duration(now - seconds).split(" ")[:2], "ago"])


def _relative(path: Path | str) -> str:
    return str(relative_path(Path(path)))
