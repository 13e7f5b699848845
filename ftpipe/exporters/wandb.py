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

    def _send(self, run: ExportedRun, project: str) -> str:
        wandb = self._wandb
        wandb_run = wandb.init(
            project=project,
            id=run.id,
            name=run.name,
            group=run.group or None,
            job_type=run.kind,
            config={**run.params, "lineage": run.tags},
            tags=[f"ftpipe-{run.kind}"[:MAX_TAG_CHARACTERS]],
            resume="allow",
            reinit="create_new",
            # its console output would mix with ftpipe's, and with the JSON on stdout
            settings=wandb.Settings(silent=True, console="off"),
        )
        try:
            for step, values in run.curves:
                wandb_run.log(values, step=step)
            wandb_run.summary.update(run.scores)
            if run.report is not None:
                artifact = wandb.Artifact(f"{run.id}-report", type="report", metadata=dict(run.tags))
                artifact.add_file(str(run.report), name="report.html")
                wandb_run.log_artifact(artifact)
            if wandb_run.offline:
                return f"offline; `wandb sync {wandb_run.dir.removesuffix('/files')}` sends it"
            return str(wandb_run.url)
        finally:
            wandb_run.finish()
