"""A model trained on this machine as a folder for other tools."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from ftpipe.errors import NotFoundError, UsageError
from ftpipe.paths import models_dir, server_dir
from ftpipe.plain import sanitize_line
from ftpipe.records import Model


def export_local(model: Model, output: Path | None, *, merged: bool, say: Callable[[str], None]) -> Path:
    """Write a model to a folder.

    Args:
        model: From the registry; it was trained by the embedded endpoint.
        output: The folder; by default one in the working folder, named after the model.
        merged: Whole weights instead of the adapter.
        say: Hears what takes long.

    Raises:
        UsageError: The model lives at a hosted endpoint, which gives no weights.
        NotFoundError: The endpoint's data folder does not hold it any more.
    """
    if model.provider != "local":
        raise UsageError(
            f"{model.id} lives at {model.provider}, which gives no weights away",
            "models trained with --provider local can be exported",
        )
    base, adapter = _weights(model)
    folder = output or Path(re.sub(r"[^A-Za-z0-9._-]+", "-", model.id).strip("-.")[:100])
    from ftpipe.server.export import export_model

    say(f"writing {'merged weights' if merged else 'the adapter'} to {sanitize_line(folder, 300)}")
    return export_model(base=base, adapter=adapter, output=folder, merged=merged, models_dir=models_dir())


def _weights(model: Model) -> tuple[str, Path]:
    """The base's name and the adapter of the last step."""
    from ftpipe.server.disk import DataDirectory

    layout = DataDirectory(server_dir())
    folder = layout.job(model.job_id)
    try:
        base = str(json.loads((folder / "spec.json").read_text(encoding="utf-8"))["base"])
        step = int(json.loads((folder / "result.json").read_text(encoding="utf-8"))["final_step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotFoundError(
            f"the weights of {model.id} are not in {folder}", "set FTPIPE_HOME to where it was trained, or train again"
        ) from error
    return base, layout.checkpoint(model.job_id, step)
