"""Download base models for the server on this machine, as the user who runs the command."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.cli.context import CliContext
from ftpipe.errors import UsageError
from ftpipe.formatting import sanitize_line
from ftpipe.paths import models_dir

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider


def prepare_base(context: CliContext, provider: Provider, model: str) -> None:
    """Download the base model of a job, if the server on this machine trains it and it comes from a hub.

    The server itself downloads nothing that a client names.

    Raises:
        UsageError: The model is given as a path.
        NotFoundError: There is no such model, or it cannot be downloaded.
    """
    if provider.endpoint.startswith("local:") and "/" in model:
        fetch_bases(context, [model])


def fetch_bases(context: CliContext, names: Iterable[str]) -> None:
    """Download the base models that the server may use; the server itself downloads none from a hub.

    Raises:
        UsageError: A name is a path.
        NotFoundError: There is no such model, or it cannot be downloaded.
    """
    for name in names:
        from ftpipe.modeling.base_models import download_base
        from ftpipe.providers.retry import with_deadline

        if Path(name).is_absolute() or name.startswith((".", "~")):
            raise UsageError(
                "base models have names, not paths",
                f"move or link the folder into {sanitize_line(models_dir(), 300)}, and use its name there",
            )
        if context.quiet:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        download = partial(download_base, name, models_dir=models_dir(), on_status=context.print_status)
        with context.interruptible(
            "interrupted; what was downloaded is kept", "run the same command again to continue"
        ):
            with_deadline(None, download)  # in a thread: the hub's own threads end only with their files
