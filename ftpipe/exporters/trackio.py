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

    def _send(self, tracked: ExportedRun, project: str) -> str:
        trackio = self._trackio
        name = f"{tracked.name} {tracked.id[-6:]}"
        with contextlib.suppress(ValueError):  # the project does not exist yet
            for earlier in trackio.Api().runs(project):
                if earlier.name == name:
                    earlier.delete()
        trackio.init(
            project=project,
            name=name,
            group=tracked.group or None,
            config={**tracked.params, **{f"lineage.{key}": value for key, value in tracked.tags.items()}},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        try:
            last = 0
            for last, values in tracked.curves:
                trackio.log(values, step=last)
            if tracked.scores:
                trackio.log(dict(tracked.scores), step=last + 1)
            if tracked.report is not None:
                trackio.log_artifact(tracked.report, name=f"{tracked.id}-report", type="report")
        finally:
            trackio.finish()
        return f"project {project}, run {name}; `trackio show --project {project}` opens it"
