"""Export runs and evaluations to other tools' dashboards. A new tool is one file and one line here.

A tool is imported when something is exported to it. A second export of the same run replaces the first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ftpipe.errors import MissingExtraError, UsageError
from ftpipe.exporters.run import ExportedRun

__all__ = ["DEFAULT_PROJECT", "EXPORTERS", "ExportedRun", "Exporter", "open_exporter"]

DEFAULT_PROJECT = "ftpipe"
"""The project in a tool, by default."""


class Exporter(Protocol):
    """Exports to one tool."""

    def send(self, run: ExportedRun, *, project: str) -> str:
        """Export one run, and return where it can be viewed.

        Raises:
            ProviderError: The tool did not accept it.
        """
        ...


EXPORTERS: Mapping[str, tuple[str, str]] = {
    "wandb": ("wandb", "ftpipe.exporters.wandb:WandbExporter"),
    "mlflow": ("mlflow", "ftpipe.exporters.mlflow:MlflowExporter"),
    "trackio": ("trackio", "ftpipe.exporters.trackio:TrackioExporter"),
}
"""Name, which is also that of the extra → the package it needs, and ``module:Class`` of its exporter."""


def open_exporter(name: str, *, load: Callable[[str], Any] = importlib.import_module) -> Exporter:
    """The exporter of that name.

    Args:
        name: A key of ``EXPORTERS``.
        load: Imports a package by name.

    Raises:
        UsageError: There is no exporter of that name.
        MissingExtraError: Its package is not installed.
    """
    if name not in EXPORTERS:
        raise UsageError(f"there is no exporter {name!r}", f"known: {', '.join(EXPORTERS)}")
    package, entry_point = EXPORTERS[name]
    try:
        library = load(package)
    except ModuleNotFoundError as exc:
        raise MissingExtraError(
            f"exporting to {name} needs {exc.name}, which is not installed", f"pip install 'ftpipe[{name}]'"
        ) from exc
    module, _, attribute = entry_point.partition(":")
    exporter: Exporter = getattr(importlib.import_module(module), attribute)(library)
    return exporter
