"""Paths of ftpipe's files: the user's data folder and the project's state folder."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote

STATE_FOLDER = ".ftpipe"
EVALUATIONS_FOLDER = "evaluations"
"""In the state folder: responses, results and pages of evaluations."""
SERVER_KEY_FILE = "token"
"""In the embedded server's data folder: its key on loopback, however it was started."""


def home() -> Path:
    """The user's folder for models and the embedded server: ``FTPIPE_HOME``, or the platform's data folder."""
    configured = os.environ.get("FTPIPE_HOME")
    if configured:
        return Path(configured).expanduser().absolute()
    from platformdirs import user_data_dir

    return Path(user_data_dir("ftpipe", appauthor=False))


def server_dir() -> Path:
    """The folder of the embedded server's database, files and jobs."""
    return home() / "server"


def data_dir_option(data_dir: Path) -> str:
    """What a suggested ``ftpipe serve`` command needs to act on a data folder; empty for the default one."""
    return "" if data_dir == server_dir() else f" --data-dir {quote(str(data_dir))}"


def gateway_dir(provider: str) -> Path:
    """The folder of the files and jobs of a gateway to a provider."""
    return home() / f"gateway-{provider}"


def models_dir() -> Path:
    """The folder of installed base models."""
    return home() / "models"


def state_dir(root: Path | None = None) -> Path:
    """The project's state folder: the nearest ``.ftpipe`` in ``root`` or a folder above it, else ``root/.ftpipe``."""
    start = (root or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / STATE_FOLDER).is_dir():
            return folder / STATE_FOLDER
    return start / STATE_FOLDER


def is_in_state_dir(path: Path) -> bool:
    """Whether a path is in the project's state folder, where all files are from ftpipe."""
    return state_dir() in path.absolute().parents


def default_registry() -> Path:
    """The project's registry, if no other one is named."""
    return state_dir() / "registry.db"
