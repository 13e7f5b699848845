"""What the fault tests start from: a dataset, a provider and a pipeline over the fault endpoint."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ftpipe.pipeline.observer import PipelineObserver
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.providers.openai import open_openai
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.records import Run, RunSpec
from ftpipe.registry import Registry, open_registry
from tests.fakes.records import dataset_at, report_of, spec_of
from tests.faults.endpoint import FaultEndpoint

KEY = "sk-test-canary-0123456789abcdef"
LINE = b'{"messages":[{"role":"user","content":"hello"},{"role":"assistant","content":"good day"}]}\n'


class RecordedEvents(PipelineObserver):
    """Records what the pipeline reports."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.stages: list[str] = []
        self.jobs: list[str] = []

    def on_stage(self, name: str) -> None:
        """Record the stage."""
        self.stages.append(name)

    def on_status(self, text: str) -> None:
        """Record the message."""
        self.messages.append(text)

    def on_job(self, job: Any) -> None:
        """Record the status."""
        self.jobs.append(job.status)


def provider_at(
    base_url: str, *, key: str = KEY, sleep: Callable[[float], None] = time.sleep, **profile: Any
) -> Provider:
    """The endpoint at ``base_url`` as a provider whose waits are short."""
    table = {
        "title": "the test endpoint",
        "base_url": base_url,
        "key_env": "X_API_KEY",
        "list_lag_seconds": 0.2,
        "poll_first_seconds": 0.01,
        "poll_max_seconds": 0.05,
        "request_timeout_seconds": 5.0,
        **profile,
    }
    return open_openai(find_profile("test", {"test": table}), {"X_API_KEY": key}, sleep=sleep)


@dataclass
class FaultEnvironment:
    """One user's folder, talking to one endpoint."""

    folder: Path
    endpoint: FaultEndpoint
    base_url: str = ""
    profile: dict[str, Any] = field(default_factory=dict)
    content: bytes = LINE * 12
    key: str = KEY
    registry_url: str = ""
    """Where the registry is; by default a file in the folder."""
    speed: float = 0.01
    """Which part of each requested wait is really slept; also the pauses of retries."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base_url = self.base_url or self.endpoint.base_url
        self.recorded = RecordedEvents()
        self.slept: list[float] = []
        self.dataset = dataset_at(self.folder / "train.jsonl", self.content)
        self.path = self.folder / "registry.db"
        self.url = self.registry_url or str(self.path)
        self._registry: Registry | None = None
        self._providers: list[Provider] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def registry(self) -> Registry:
        """The registry, opened at first use."""
        if self._registry is None:
            self._registry = open_registry(self.url)
        return self._registry

    def sleep(self, seconds: float) -> None:
        """Record a wait, and sleep a part of it."""
        self.slept.append(seconds)
        time.sleep(min(seconds, max(seconds * self.speed, 0.25 if seconds <= 0.25 else 0.0)))

    def pipeline(self, *, sleep: Callable[[float], None] | None = None, **profile: Any) -> Pipeline:
        """A new pipeline, as another process would open it."""
        quick = sleep or self.sleep
        provider = self.provider(quick, **{**self.profile, **profile})
        self._providers.append(provider)
        return Pipeline(provider=provider, registry=self.registry, observer=self.recorded, sleep=quick)

    def provider(self, sleep: Callable[[float], None], **profile: Any) -> Provider:
        """The endpoint as a provider."""
        return provider_at(self.base_url, key=self.key, sleep=sleep, **profile)

    def spec(self) -> RunSpec:
        """What is requested."""
        return spec_of(self.dataset).model_copy(update={"provider": "test"})

    def train(self, *, force_new: bool = False, timeout: float | None = 120, **profile: Any) -> Run:
        """What ``ftpipe train`` does."""
        pipeline = self.pipeline(**profile)
        plan = pipeline.plan_for(self.spec(), report_of(self.dataset))
        return pipeline.advance(pipeline.start(plan, force_new=force_new), timeout=timeout)

    def resume(self, **profile: Any) -> Run:
        """What ``ftpipe resume`` does."""
        return self.pipeline(**profile).resume(timeout=120)

    def close(self) -> None:
        """Close connections and database."""
        for provider in self._providers:
            provider.close()
        if self._registry is not None:
            self._registry.close()

    def rewrite(self, content: bytes) -> None:
        """Change the file on disk without ftpipe noticing."""
        self.dataset.path.write_bytes(content)

    @property
    def digest(self) -> str:
        """SHA-256 of the dataset."""
        return hashlib.sha256(self.content).hexdigest()

    def counts(self) -> dict[str, int]:
        """What exists: files and paid jobs at the endpoint, models and cost rows in the registry."""
        with self.registry.engine.connect() as connection:
            costs = connection.exec_driver_sql("SELECT count(*) FROM costs").scalar() or 0
        return {
            "files": len(self.endpoint.files),
            "jobs": len(self.endpoint.jobs),
            "models": len(self.registry.models.recent()),
            "costs": costs,
        }


ONE_OF_EACH = {"files": 1, "jobs": 1, "models": 1, "costs": 1}
