"""``ftpipe ui``: pages for the browser with the data, runs, models, answers and evaluations of this project."""

from __future__ import annotations

import importlib.util
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.errors import MissingExtraError
from ftpipe.formatting import sanitize_line

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ftpipe.ui.project import Project

PACKAGES = ("starlette", "uvicorn", "h11", "anyio", "python_multipart")
"""What serves the pages; torch is not needed."""


@dataclass(frozen=True, kw_only=True)
class UiOptions:
    """Options of ``ftpipe ui``."""

    host: str = "127.0.0.1"
    port: int = 8322
    api_key_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    no_browser: bool = False


@click.command(
    cls=Command,
    groups={"Address and keys": ("host", "port", "api_key_file", "allowed_hosts", "no_browser")},
    example="ftpipe ui\nftpipe ui --no-browser --port 0",
)
@shared.listen_options(UiOptions.host, UiOptions.port)
@click.option(
    "--api-key-file",
    type=shared.FILE,
    metavar="FILE",
    help="File with API keys, lines of KEY; the pages ask for one instead of taking the printed link.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Further name under which browsers reach the pages, for example of a reverse proxy. Repeatable.",
)
@click.option("--no-browser", is_flag=True, help="Only print the address, and open no browser.")
@shared.trust_host
@pass_cli_context
def ui(context: CliContext, /, **params: Any) -> None:
    """Check data, train, chat and compare models of this project in the browser.

    The printed address signs in one browser, once; a page of it makes further links. Without --host it listens on this
    machine only. Closing a page, or Ctrl-C here, stops no training: jobs belong to their server, and commands that a
    page has started go on.
    """
    require_packages()
    from ftpipe.server.auth import load_api_keys, warn_if_readable
    from ftpipe.ui.serve import UiSettings, serve

    options = UiOptions(**params)
    warn_if_readable(options.api_key_file)
    project = open_project(context)
    page_settings = UiSettings(
        host=options.host,
        port=options.port,
        allowed_hosts=options.allowed_hosts,
        keys=load_api_keys(options.api_key_file),
    )
    with context.interruptible("the pages were closed", "jobs go on; `ftpipe ui` opens the pages again"):
        serve(page_settings, project, on_listening=lambda url: show_address(context, url, opens=not options.no_browser))


def open_project(context: CliContext) -> Project:
    """Open the project of the working folder for its pages."""
    from ftpipe.paths import state_dir
    from ftpipe.ui.serve import open_project as open_for_pages

    settings = context.settings()
    return open_for_pages(
        settings,
        context.registry(settings),
        context.environment(),
        folder=Path.cwd(),
        state_dir=state_dir(),
        options=command_options(context),
    )


MOUNT_PATH = "/ui"
"""Where ``ftpipe serve --ui`` shows the pages."""


class NoPages:
    """The pages of a server that shows none."""

    mounts: Mapping[str, ASGIApp] = MappingProxyType({})
    """Path → application."""

    def lines(self, _base_url: str) -> list[str]:
        """What is printed when the server listens."""
        return []

    def stop(self) -> str:
        """End what would keep the server from stopping; returns what is printed then."""
        return "stopping …"


class ServerPages(NoPages):
    """The pages of this project at a path of the embedded server.

    Args:
        context: Opens the project, and closes it when the command ends.
        host: Address of the server.
        allowed_hosts: Further names of the server.
        key_file: Keys that the user has given; one of the owner ``local`` signs in then, else a link does.
    """

    def __init__(self, context: CliContext, host: str, allowed_hosts: tuple[str, ...], key_file: Path | None) -> None:
        require_packages()
        from ftpipe.server.auth import load_api_keys
        from ftpipe.ui.serve import UiSettings, build_app

        settings = UiSettings(host=host, allowed_hosts=allowed_hosts, keys=load_api_keys(key_file))
        project = open_project(context)
        context.close_at_end(project.close)
        self._app = build_app(settings, project)
        self.mounts = {MOUNT_PATH: self._app}

    def lines(self, base_url: str) -> list[str]:
        """The address of the pages."""
        from ftpipe.ui.serve import sign_in_url

        url = sign_in_url(self._app, f"{base_url.removesuffix('/v1')}{MOUNT_PATH}/")
        return ["in the browser:", f"  {sanitize_line(url, 300)}"]

    def stop(self) -> str:
        """End the streams of open pages."""
        self._app.state.streams.close()
        return super().stop()


def require_packages() -> None:
    """Raise if what serves the pages is not installed.

    Raises:
        MissingExtraError: A package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"the pages need {', '.join(missing)}", "pip install 'ftpipe[ui]'")


def command_options(context: CliContext) -> tuple[str, ...]:
    """The options of this command that commands of the pages need, too."""
    config = ("--config", str(Path(context.config_path).absolute())) if context.config_path else ()
    registry = ("--registry", context.registry_url) if context.registry_url else ()
    return (*config, *registry)


def show_address(context: CliContext, url: str, *, opens: bool) -> None:
    """Write the address, and open a browser there if there is one."""
    context.print_always([f"open {sanitize_line(url, 300)}", "Ctrl-C closes the pages; jobs go on"])
    if opens:
        webbrowser.open(url)
