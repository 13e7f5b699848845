"""ftpipe: from a chat JSONL file to a registered fine-tuned model. Names are imported when they are first used.

::

    from pathlib import Path
    from ftpipe import Hyperparameters, Pipeline, RunSpec, open_provider, open_registry

    spec = RunSpec(
        provider="local",
        data=Path("data/support_desk/train.jsonl"),
        model="smollm2-135m-instruct",
        hyperparameters=Hyperparameters(n_epochs=3),
    )
    pipeline = Pipeline(provider=open_provider(spec.provider), registry=open_registry())
    plan = pipeline.plan(spec)  # checks and counts; nothing is sent
    run = pipeline.advance(pipeline.start(plan))
    print(run.model.id)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftpipe.errors import FtpipeError as FtpipeError
    from ftpipe.pipeline.observer import PipelineObserver as PipelineObserver
    from ftpipe.pipeline.pipeline import Pipeline as Pipeline
    from ftpipe.pipeline.preflight import Plan as Plan
    from ftpipe.providers import open_provider as open_provider
    from ftpipe.records import Hyperparameters as Hyperparameters
    from ftpipe.records import Report as Report
    from ftpipe.records import Run as Run
    from ftpipe.records import RunSpec as RunSpec
    from ftpipe.registry import open_registry as open_registry
    from ftpipe.stages.count import count as count
    from ftpipe.stages.validate import validate as validate

__version__ = "0.1.0"

_PUBLIC_NAMES = {
    "FtpipeError": "ftpipe.errors",
    "Hyperparameters": "ftpipe.records",
    "Pipeline": "ftpipe.pipeline.pipeline",
    "Report": "ftpipe.records",
    "Run": "ftpipe.records",
    "RunSpec": "ftpipe.records",
    "PipelineObserver": "ftpipe.pipeline.observer",
    "Plan": "ftpipe.pipeline.preflight",
    "count": "ftpipe.stages.count",
    "open_provider": "ftpipe.providers",
    "open_registry": "ftpipe.registry",
    "validate": "ftpipe.stages.validate",
}
__all__ = ["__version__", *_PUBLIC_NAMES]


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``import ftpipe`` stays fast."""
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module 'ftpipe' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
