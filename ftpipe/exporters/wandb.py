"""Export runs to Weights & Biases; ``WANDB_…`` variables name the server."""

from __future__ import annotations

from typing import Any

from ftpipe.errors import ProviderError
from ftpipe.exporters.run import ExportedRun

MAX_TAG_CHARACTERS = 64
"""Source: W&B's run tags, docs.wandb.ai/models/runs/tags, read 2026-11-24."""


class WandbExporter:
    """Exports runs to Weights & Biases.

    Args:
        library: The package ``wandb``.
    """

    def __init__(self, library: Any) -> None:  # noqa: ANN401  # a package without types
        self._wandb = library

    def send(self, run: ExportedRun, *, project: str) -> str:
        """See ``Exporter``; a run of the same id is continued, and its existing steps are kept."""
        try:
            return self._send(run, project)
        except (self._wandb.Error, OSError) as exc:
            raise ProviderError(
                f"could not export {run.name} to W&B: {exc}",
                "run `wandb login` or set WANDB_API_KEY; WANDB_MODE=offline stores the run on this machine",
            ) from exc

    def _send(self, tracked: ExportedRun, project: str) -> str:
        wandb = self._wandb
        run = wandb.init(
            project=project,
            id=tracked.id,
            name=tracked.name,
            group=tracked.group or None,
            job_type=tracked.kind,
            config={**tracked.params, "lineage": tracked.tags},
            tags=[f"ftpipe-{tracked.kind}"[:MAX_TAG_CHARACTERS]],
            resume="allow",
            reinit="create_new",
            # its console output would mix with ftpipe's, and with the JSON on stdout
            settings=wandb.Settings(silent=True, console="off"),
        )
        try:
            for step, values in tracked.curves:
                run.log(values, step=step)
            run.summary.update(tracked.scores)
            if tracked.report is not None:
                artifact = wandb.Artifact(f"{tracked.id}-report", type="report", metadata=dict(tracked.tags))
                artifact.add_file(str(tracked.report), name="report.html")
                run.log_artifact(artifact)
            if run.offline:
                return f"offline; `wandb sync {run.dir.removesuffix('/files')}` sends it"
            return str(run.url)
        finally:
            run.finish()
