"""Records that tests start from, and a provider over a fake client."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ftpipe.providers.openai import open_openai
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.records import CostEstimate, Dataset, DatasetFormat, Method, Report, RunSpec
from tests.fakes.clock import Clock
from tests.fakes.openai_client import FakeOpenAI

MODEL = "gpt-4.1-mini-2025-04-14"


def dataset_at(path: Path, content: bytes = b'{"messages": []}\n') -> Dataset:
    """Write a file with this content; returns its record."""
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Dataset(path=path, sha256=digest, bytes=len(content), examples=1, format=DatasetFormat.CHAT)


def cost_of(high: float | None = 0.02) -> CostEstimate:
    """An estimate with this high end; ``None`` is an unknown price."""
    return CostEstimate(
        model=MODEL,
        epochs=3,
        epochs_low=3,
        epochs_high=3,
        epochs_rule="requested",
        tokens_per_epoch=400,
        low=high,
        expected=high,
        high=high,
        price_per_million=5.0 if high is not None else None,
        price_as_of="2025-07-01",
        source="a test",
    )


def report_of(dataset: Dataset, *, validation: Dataset | None = None) -> Report:
    """A report without findings."""
    return Report(
        dataset=dataset, validation=validation, target="openai", method=Method.SUPERVISED, model=MODEL, cost=cost_of()
    )


def spec_of(dataset: Dataset, *, validation: Dataset | None = None) -> RunSpec:
    """What a user requests."""
    return RunSpec(
        provider="openai", data=dataset.path, validation=validation.path if validation else None, model=MODEL, seed=7
    )


def provider_over(client: FakeOpenAI, clock: Clock | None = None, **profile: object) -> Provider:
    """The ``openai`` profile, with changes, over a fake client."""
    return open_openai(
        find_profile("openai", {"openai": profile}), {}, client=client.as_client(), sleep=(clock or Clock()).sleep
    )
