"""Check and download base models for the server on this machine, as the user who runs the command."""

from __future__ import annotations

import os
import sys
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


def prepare_base(context: CliContext, provider: Provider, model: str) -> bool:
    """Download the base model of a job, if the server on this machine trains it and it comes from a hub.

    The server itself downloads nothing that a client names. Returns whether it was downloaded.

    Raises:
        UsageError: The model is given as a path.
        NotFoundError: There is no such model, or it cannot be downloaded.
    """
    from ftpipe.modeling.base_models import is_installed_base

    if not provider.endpoint.startswith("local:") or "/" not in model:
        return False
    was_here = is_installed_base(model, models_dir())
    fetch_bases(context, [model])
    return not was_here


def require_base(provider: Provider, model: str) -> None:
    """Refuse a base model that the provider does not have, before anybody is asked to pay for it.

    The models of this machine were checked before, and a hub's model is not here before it is downloaded.

    Raises:
        NotFoundError: There is no such model.
    """
    if not provider.endpoint.startswith("local:"):
        provider.models.require_base(model)


def require_local_base(model: str) -> None:
    """Refuse a base model that the server on this machine cannot have; a hub id is looked up when it is fetched.

    Raises:
        UsageError: It is a path, or there is no such model.
    """
    from ftpipe.catalog.base_models import base_hint, hosted_base_names
    from ftpipe.catalog.hub_models import hub_models
    from ftpipe.modeling.base_models import installed_bases, is_hub_id, is_installed_base

    refuse_path(model)
    if model.startswith("ft:") or is_hub_id(model) or is_installed_base(model, models_dir()):
        return
    known = [*installed_bases(models_dir()), *(one.name for one in hub_models()), *hosted_base_names()]
    raise UsageError(f"there is no base model {model!r} on this machine", base_hint(model, known))


def refuse_path(name: str) -> None:
    """Refuse a path: base models have names.

    Raises:
        UsageError: It is a path.
    """
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise UsageError(
            "base models have names, not paths",
            f"move or link the folder into {sanitize_line(models_dir(), 300)}, and use its name there",
        )


def fetch_bases(context: CliContext, names: Iterable[str]) -> None:
    """Download the base models that the server may use; the server itself downloads none from a hub.

    Raises:
        UsageError: A name is a path.
        NotFoundError: There is no such model, or it cannot be downloaded.
    """
    for name in names:
        refuse_path(name)
        from ftpipe.modeling.base_models import download_base
        from ftpipe.providers.retry import with_deadline

        if context.quiet or not sys.stderr.isatty():
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        download = partial(download_base, name, models_dir=models_dir(), on_status=context.print_status)
        with context.interruptible(
            "interrupted; what was downloaded is kept", "run the same command again to continue"
        ):
            with_deadline(None, download)  # in a thread: the hub's own threads end only with their files
