"""Where ftpipe keeps things: the user's own folder and the project's state folder."""

from __future__ import annotations

import os
from pathlib import Path

STATE_FOLDER = ".ftpipe"


def home() -> Path:
    """The user's folder for models and the embedded server: ``FTPIPE_HOME``, or the platform's data folder."""
    chosen = os.environ.get("FTPIPE_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_data_dir

    return Path(user_data_dir("ftpipe", appauthor=False))


def server_dir() -> Path:
    """Where the embedded server keeps its database, files and jobs."""
    return home() / "server"


def models_dir() -> Path:
    """Where base models are kept after their first use."""
    return home() / "models"


def state_dir(root: Path | None = None) -> Path:
    """The project's state folder: the nearest ``.ftpipe`` upwards from ``root``, else ``root/.ftpipe``."""
    start = (root or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / STATE_FOLDER).is_dir():
            return folder / STATE_FOLDER
    return start / STATE_FOLDER
