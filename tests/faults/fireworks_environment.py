"""One user's folder that talks to a local Fireworks, for the tests of the provider and of its faults."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftpipe.providers.fireworks.open import open_fireworks
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.records import Hyperparameters, Job, JobRequest, Method, Run, RunSpec, UploadedFile
from tests.fakes.fireworks import ACCOUNT, FireworksServer
from tests.fakes.records import dataset_at, report_of
from tests.faults.environment import KEY, LINE, FaultEnvironment

QUICK = {"poll_first_seconds": 0.01, "poll_max_seconds": 0.05, "request_timeout_seconds": 5.0}


def fireworks_provider(
    host: FireworksServer,
    *,
    account: str = ACCOUNT,
    base_url: str = "",
    key: str = KEY,
    sleep: Callable[[float], None] = time.sleep,
    **profile: Any,
) -> Provider:
    """The ``fireworks`` profile at a local host, with short waits."""
    table = {**QUICK, "base_url": base_url or host.base_url, **profile}
    env = {"FIREWORKS_API_KEY": key, "FIREWORKS_ACCOUNT_ID": account}
    return open_fireworks(find_profile("fireworks", {"fireworks": table}), env, sleep=sleep)


def request_of(
    provider: Provider, path: Path, *, method: Method = Method.SUPERVISED, lines: int = 12, **fields: Any
) -> JobRequest:
    """A request for a job on a dataset that is uploaded and ready."""
    dataset = dataset_at(path, LINE * lines)
    file = provider.files.upload(path, filename=f"ftpipe-{dataset.sha256[:16]}.jsonl", on_bytes=lambda _done: None)
    for _ in range(3):
        file = provider.files.get(file.id)
    uploaded = UploadedFile(
        id=file.id, endpoint=provider.endpoint, sha256=dataset.sha256, bytes=1, filename=file.filename, created_at=1
    )
    values = {"n_epochs": 2, "learning_rate": 1e-4, **fields.pop("hyperparameters", {})}
    return JobRequest(
        model=fields.pop("model", "qwen3-8b"),
        training_file=uploaded,
        method=method,
        hyperparameters=Hyperparameters(**values),
        **fields,
    )


def wait_for_end(provider: Provider, job_id: str) -> Job:
    """Read a job until it has ended."""
    for _ in range(20):
        job = provider.jobs.get(job_id)
        if job.is_finished:
            return job
    raise AssertionError(f"{job_id} does not end")


class FireworksEnvironment(FaultEnvironment):
    """One user's folder, talking to one local Fireworks."""

    endpoint: FireworksServer  # type: ignore[assignment]  # another server with the same fields for what is counted

    def provider(self, sleep: Callable[[float], None], **profile: Any) -> Provider:
        """The local Fireworks as a provider."""
        return fireworks_provider(self.endpoint, base_url=self.base_url, key=self.key, sleep=sleep, **profile)

    def train(
        self,
        *,
        force_new: bool = False,
        timeout: float | None = 120,
        spec: dict[str, Any] | None = None,
        **profile: Any,
    ) -> Run:
        """What ``ftpipe train`` does."""
        pipeline = self.pipeline(**profile)
        values = {"provider": "fireworks", "data": self.dataset.path, "model": "qwen3-8b", **(spec or {})}
        report = report_of(self.dataset).model_copy(update={"target": "fireworks"})
        plan = pipeline.plan_for(RunSpec.model_validate(values), report)
        return pipeline.advance(pipeline.start(plan, force_new=force_new), timeout=timeout)


def environment_at(folder: Path, host: FireworksServer, **profile: Any) -> FireworksEnvironment:
    """A user's folder beside a local Fireworks."""
    return FireworksEnvironment(folder, host, profile=profile)  # type: ignore[arg-type]  # as above
