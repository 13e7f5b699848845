"""Prepare: the two stages that ask nobody, validate and count, in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftpipe.records import Report, RunSpec
from ftpipe.watcher import PipelineObserver

if TYPE_CHECKING:
    from ftpipe.dataset.prices import PriceTable


def prepare(
    spec: RunSpec, *, target: str, prices: PriceTable | None = None, watcher: PipelineObserver | None = None
) -> Report:
    """Validate and count what a run was asked to train on; nothing is sent.

    Args:
        spec: What is asked for.
        target: Whose rules apply: ``openai``, ``azure``, ``nebius`` or ``local``.
        prices: The price table; the package's own where not given.
        watcher: Hears the progress in bytes.

    Raises:
        DatasetError: The file cannot be read as a dataset at all; findings are in the report, not raised.
    """
    from ftpipe.stages.count import count
    from ftpipe.stages.validate import validate

    heard, epochs = watcher or PipelineObserver(), spec.hyperparameters.n_epochs
    heard.on_stage("validate")
    report = validate(
        spec.data,
        target=target,
        method=spec.method,
        model=spec.model,
        validation=spec.validation,
        for_job=True,
        on_progress=lambda done, total: heard.on_progress("validate", done, total),
    )
    heard.on_stage("count")
    return count(
        report,
        model=spec.model,
        epochs=None if epochs == "auto" else epochs,
        prices=prices,
        on_progress=lambda done, total: heard.on_progress("count", done, total),
    )
