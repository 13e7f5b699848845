"""``ftpipe ui``: listen, print a link that signs in once, and stop cleanly."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from ftpipe.config import Settings
from ftpipe.providers.profiles import load_profiles
from ftpipe.registry import Registry
from ftpipe.server.auth import DEFAULT_OWNER, ApiKeys, build_host_policy, require_keys_if_exposed
from ftpipe.server.listening import bound_socket, deferred_signals, uvicorn_config
from ftpipe.ui.app import create_app
from ftpipe.ui.background import BackgroundCommands
from ftpipe.ui.curves import CurveCache
from ftpipe.ui.job_watcher import JobWatcher
from ftpipe.ui.project import Endpoints, Project
from ftpipe.ui.sessions import TOKEN_PARAMETER, Sessions

log = logging.getLogger("ftpipe.ui")

HEADER_TIMEOUT_SECONDS = 20.0
BODY_TIMEOUT_SECONDS = 60.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # names the addresses, binds nothing


@dataclass(frozen=True, kw_only=True)
class UiSettings:
    """How the pages are served."""

    host: str = "127.0.0.1"
    """Anything but loopback needs keys."""
    port: int = 8322
    """0 takes any free port."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names that are allowed in the Host header, for example of a reverse proxy."""
    keys: ApiKeys = field(default_factory=ApiKeys)


def open_project(
    settings: Settings,
    registry: Registry,
    env: Mapping[str, str],
    *,
    folder: Path,
    state_dir: Path,
    options: Sequence[str] = (),
    owner: str = DEFAULT_OWNER,
) -> Project:
    """A project, whose open jobs are read from now on.

    Args:
        settings: The configuration.
        registry: Runs, models and evaluations.
        env: Environment variables with the keys.
        folder: Working folder of commands.
        state_dir: The project's state folder.
        options: Options that every command gets, for example the registry.
        owner: Whose it is.
    """
    endpoints = Endpoints(settings, env)
    watcher = JobWatcher(registry, endpoints)
    watcher.start()
    return Project(
        owner=owner,
        folder=folder,
        state_dir=state_dir,
        settings=settings,
        registry=registry,
        endpoints=endpoints,
        commands=BackgroundCommands(folder, state_dir, options=options, env=lambda: command_variables(settings)),
        watcher=watcher,
        curves=CurveCache(registry),
    )


def command_variables(settings: Settings) -> dict[str, str]:
    """The variables that commands of this project need: those of ftpipe, keys and addresses of its providers."""
    profiles = load_profiles(settings.config.providers).values()
    names = {name for profile in profiles for name in (profile.key_env, profile.base_url_env)}
    return {
        name: value for name, value in os.environ.items() if name in names or name.startswith(("FTPIPE_", "OPENAI_"))
    }


def build_app(settings: UiSettings, project: Project) -> Starlette:
    """The pages of a project as an application; keys of other owners see nothing of it."""
    return create_app(
        sessions=Sessions(settings.keys),
        host_policy=build_host_policy(settings.host, settings.allowed_hosts),
        free_port_names=settings.allowed_hosts,
        find_project=lambda owner: project if owner == project.owner else None,
    )


def sign_in_url(app: Starlette, url: str) -> str:
    """The URL of the pages, which signs in once unless they ask for a key."""
    sessions: Sessions = app.state.sessions
    return url if sessions.has_keys else f"{url}?{TOKEN_PARAMETER}={sessions.create_link_token()}"


def serve(settings: UiSettings, project: Project, *, on_listening: Callable[[str], None]) -> None:
    """Serve the pages of a project until SIGINT, SIGTERM or SIGHUP.

    Args:
        settings: How they are served.
        project: What they show. Keys of other owners than ``local`` see nothing of it.
        on_listening: Called with the URL that signs in once, or with that of the page that asks for a key.

    Raises:
        UsageError: It would listen beyond this machine without keys.
        ConfigError: The address or port cannot be used.
    """
    require_keys_if_exposed(settings.host, (), settings.keys)
    app = build_app(settings, project)
    _log_to_stderr()
    with bound_socket(settings.host, settings.port) as sock, deferred_signals(log):
        url = sign_in_url(app, _page_url(settings.host, sock.getsockname()[1]))
        config = uvicorn_config(app, HEADER_TIMEOUT_SECONDS, BODY_TIMEOUT_SECONDS)
        try:
            _PageServer(config, app, lambda: on_listening(url)).run(sockets=[sock])
        finally:
            project.close()


class _PageServer(uvicorn.Server):
    """Says when it listens, and ends the streams when it stops."""

    def __init__(self, config: uvicorn.Config, app: Starlette, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.streams.close()
        await super().shutdown(sockets)


def _page_url(host: str, port: int) -> str:
    reachable = ANY_ADDRESS.get(host, host)
    return f"http://[{reachable}]:{port}/" if ":" in reachable else f"http://{reachable}:{port}/"


def _log_to_stderr() -> None:
    """Warnings and errors of the pages, without the requests: a link's secret stands in a URL."""
    for name in ("ftpipe.ui", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.setLevel("WARNING")
        logger.propagate = False
        logger.handlers = [logging.StreamHandler(sys.stderr)]
