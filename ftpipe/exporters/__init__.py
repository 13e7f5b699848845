"""Runs and evaluations in other tools' dashboards; a new tool is one file and one line here.

No tool is imported before something is sent to it. What is sent twice takes the place of what was there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ftpipe.errors import MissingExtraError, UsageError
from ftpipe.exporters.run import ExportedRun

__all__ = ["DEFAULT_PROJECT", "EXPORTERS", "ExportedRun", "Exporter", "open_exporter"]

DEFAULT_PROJECT = "ftpipe"
"""Where things go in a tool, if nobody says where."""


class Exporter(Protocol):
    """Sends to one tool."""

    def send(self, run: ExportedRun, *, project: str) -> str:
        """Send one run; returns where to look for it.

        Raises:
            ProviderError: The tool did not take it.
        """
        ...


EXPORTERS: Mapping[str, tuple[str, str]] = {
    "wandb": ("wandb", "ftpipe.exporters.wandb:WandbExporter"),
    "mlflow": ("mlflow", "ftpipe.exporters.mlflow:MlflowExporter"),
    "trackio": ("trackio", "ftpipe.exporters.trackio:TrackioExporter"),
}
"""Name, also of its extra → the package that it needs, and ``module:Class`` of its exporter."""


def open_exporter(name: str, *, load: Callable[[str], Any] = importlib.import_module) -> Exporter:
    """The exporter of that name.

    Args:
        name: A key of ``EXPORTERS``.
        load: Imports a package by name.

    Raises:
        UsageError: There is none of that name.
        MissingExtraError: Its package is not installed.
    """
    if name not in EXPORTERS:
        raise UsageError(f"there is no exporter {name!r}", f"known: {', '.join(EXPORTERS)}")
    package, place = EXPORTERS[name]
    try:
        library = load(package)
    except ModuleNotFoundError as exc:
        raise MissingExtraError(
            f"exporting to {name} needs {exc.name}, which is not installed", f"pip install 'ftpipe[{name}]'"
        ) from exc
    module, _, attribute = place.partition(":")
    exporter: Exporter = getattr(importlib.import_module(module), attribute)(library)
    return exporter
