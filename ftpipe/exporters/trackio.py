"""Export runs to trackio: a dashboard on this machine, or in a Space that ``TRACKIO_…`` variables name."""

from __future__ import annotations

import contextlib
from typing import Any

from ftpipe.errors import ProviderError
from ftpipe.exporters.run import ExportedRun


class TrackioExporter:
    """Exports runs to trackio.

    Args:
        library: The package ``trackio``.
    """

    def __init__(self, library: Any) -> None:  # noqa: ANN401  # a package without types
        self._trackio = library

    def send(self, run: ExportedRun, *, project: str) -> str:
        """See ``Exporter``; trackio has no run ids, so a run of the same name is deleted first."""
        try:
            return self._send(run, project)
        except (OSError, ValueError, RuntimeError) as exc:
            raise ProviderError(
                f"could not export {run.name} to trackio: {' '.join(str(exc).split())[:300]}",
                "TRACKIO_DIR names the folder that it stores runs in",
            ) from exc

    def _send(self, run: ExportedRun, project: str) -> str:
        trackio = self._trackio
        name = f"{run.name} {run.id[-6:]}"
        with contextlib.suppress(ValueError):  # the project does not exist yet
            for earlier in trackio.Api().runs(project):
                if earlier.name == name:
                    earlier.delete()
        trackio.init(
            project=project,
            name=name,
            group=run.group or None,
            config={**run.params, **{f"lineage.{key}": value for key, value in run.tags.items()}},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        try:
            last = 0
            for last, values in run.curves:
                trackio.log(values, step=last)
            if run.scores:
                trackio.log(dict(run.scores), step=last + 1)
            if run.report is not None:
                trackio.log_artifact(run.report, name=f"{run.id}-report", type="report")
        finally:
            trackio.finish()
        return f"project {project}, run {name}; `trackio show --project {project}` opens it"
