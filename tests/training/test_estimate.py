"""Estimates of jobs: time from finished jobs of the machine, and what makes a job fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftpipe.modeling.base_facts import BaseFacts
from ftpipe.modeling.machine import Machine
from ftpipe.modeling.model_shape import ModelShape
from ftpipe.records.training_estimate import TrainingEstimate
from ftpipe.training.estimate import JobData, estimate_training
from ftpipe.training.measured_jobs import ComputeKind, MeasuredJob, read_measured_jobs
from ftpipe.training.memory_settings import RowLengths

SMALL = ModelShape(30, 576, 1536, 9, 3, 64, 49_152)
LARGE = ModelShape(32, 4096, 14336, 32, 8, 128, 128_256, tied=False)
CPU = Machine("cpu", 24 * 10**9)
DATA = JobData(RowLengths(128, 0.25), examples=100, tokens=7000)


def estimate(
    shape: ModelShape = SMALL, machine: Machine = CPU, data: JobData = DATA, **options: Any
) -> TrainingEstimate:
    """The estimate of a job on a base of this shape."""
    requested = options.pop("requested", {})
    facts = BaseFacts(shape, 8192, shape.parameters)
    return estimate_training("base", facts, requested, data, machine, **options)


def measured(base: str, speed: float, shape: ModelShape = SMALL, **kind: Any) -> MeasuredJob:
    """A finished job."""
    values = {"device": "cpu", "precision": "float32", "quantization": "none", "gradient_checkpointing": False, **kind}
    return MeasuredJob(base, ComputeKind(**values), ("q_proj", "v_proj"), speed, None, shape)


def test_estimate_of_time_without_jobs_is_called_a_guess() -> None:
    guess = estimate()
    assert guess.n_epochs == 3
    assert guess.tokens_per_second
    assert guess.seconds == pytest.approx(7000 * 3 / guess.tokens_per_second, rel=0.01)
    assert "a rough guess" in guess.speed_source


def test_estimate_of_time_is_the_median_of_jobs_with_the_same_base() -> None:
    """Jobs in another precision do not count."""
    jobs = [measured("base", speed) for speed in (100, 300, 200)] + [measured("base", 9999, precision="bfloat16")]
    learnt = estimate(jobs=jobs)
    assert learnt.tokens_per_second == 200
    assert "3 earlier jobs here with this base" in learnt.speed_source


def test_estimate_of_time_scales_jobs_with_other_bases_by_their_size() -> None:
    large = estimate(LARGE, Machine("cpu", 10**12), jobs=[measured("other", 200)])
    assert large.tokens_per_second == pytest.approx(200 * SMALL.parameters / LARGE.parameters, rel=0.2)
    assert "scaled by size" in large.speed_source


def test_estimate_of_time_on_unmeasured_gpu_is_unknown() -> None:
    gpu = estimate(LARGE, Machine("cuda", 80 * 10**9, has_bfloat16=True))
    assert (gpu.tokens_per_second, gpu.seconds) == (None, None)
    assert gpu.fits


def test_estimate_without_data_has_no_time() -> None:
    sample = estimate(data=JobData(RowLengths(256, 0.25), examples=100))
    assert sample.tokens_per_second
    assert (sample.seconds, sample.tokens_per_epoch) == (None, None)


@pytest.mark.parametrize(
    ("gigabytes", "requested", "remedy"),
    [
        (21, {"gradient_checkpointing": False, "quantization": "none"}, "--gradient-checkpointing"),
        (10, {"quantization": "none"}, "--quantization 4bit"),
        (24, {"precision": "float32", "quantization": "none"}, "--precision bfloat16"),
        (9.5, {"max_length": 8192}, "--max-length"),
    ],
)
def test_estimate_names_the_setting_that_makes_it_fit(gigabytes: float, requested: dict[str, Any], remedy: str) -> None:
    machine = Machine("cuda", int(gigabytes * 1e9), has_bfloat16=True)
    data = JobData(RowLengths(8192 if "max_length" in requested else 2048, 0.25), examples=100)
    refused = estimate(LARGE, machine, data, requested=requested)
    assert refused.fits is False
    assert remedy in refused.remedies[0]


def test_estimate_counts_long_rows_as_they_are_cut() -> None:
    """A row above ``max_length`` changes neither the memory nor the time."""
    requested = {"max_length": 512}
    longest, cut = (
        estimate(LARGE, Machine("cpu", 44 * 10**9), JobData(RowLengths(length, 0.25), 100, 7000), requested=requested)
        for length in (100_000, 512)
    )
    assert longest == cut
    assert longest.micro_batch_tokens == 1024


def test_estimate_has_no_remedy_if_the_weights_alone_are_too_large() -> None:
    refused = estimate(LARGE, Machine("cuda", 4 * 10**9, has_bfloat16=True))
    assert (refused.fits, refused.remedies) == (False, ())


def test_estimate_shares_the_weights_among_gpus_only_if_it_must() -> None:
    alone = estimate(LARGE, Machine("cuda", 80 * 10**9, 8, has_bfloat16=True))
    shared = estimate(LARGE, Machine("cuda", 8 * 10**9, 8, has_bfloat16=True), requested={"quantization": "none"})
    assert (alone.is_sharded, alone.fits) == (False, True)
    assert (shared.is_sharded, shared.fits) == (True, True)


def test_estimate_of_unknown_architecture_has_no_memory() -> None:
    facts = BaseFacts(None, None, 0)
    unknown = estimate_training("base", facts, {}, DATA, CPU)
    assert (unknown.memory_bytes, unknown.fits, unknown.tokens_per_second) == (None, None, None)


def write_job(folder: Path, *, status: str = "succeeded", steps: int = 9, **plan: Any) -> None:
    """A job directory as far as it is read."""
    folder.mkdir(parents=True)
    settings = {"precision": "bfloat16", "quantization": "none", "gradient_checkpointing": False}
    files: dict[str, Any] = {
        "spec": {"base_model": "base"},
        "plan": plan
        or {"device_config": {"device": "cpu"}, "hyperparameters": settings | {"target_modules": ["q_proj"]}},
        "progress": {"tokens_per_second": 250.5, "peak_memory_bytes": 10**9},
        "result": {"status": status, "final_step": steps},
    }
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def test_measured_jobs_are_those_that_ended_with_a_model(tmp_path: Path) -> None:
    """Failed, short and broken ones say nothing about speed."""
    jobs = tmp_path / "jobs"
    write_job(jobs / "ftjob-good")
    write_job(jobs / "ftjob-failed", status="failed")
    write_job(jobs / "ftjob-short", steps=1)
    write_job(jobs / "ftjob-broken", device_config={})
    (jobs / "ftjob-empty").mkdir()
    [job] = read_measured_jobs(jobs, tmp_path / "models")
    assert job == MeasuredJob("base", ComputeKind("cpu", "bfloat16", "none", False), ("q_proj",), 250.5, 10**9, None)
    assert read_measured_jobs(tmp_path / "missing", tmp_path / "models") == []


def test_estimate_of_reinforcement_has_memory_and_no_time() -> None:
    """The weights are there twice, and each prompt has a group of answers; answers have any length."""
    requested = {"max_completion_tokens": 64, "lora_dropout": 0.05}
    plain = estimate(jobs=[measured("base", 100)])
    sampled = estimate(requested=requested, method="reinforcement", jobs=[measured("base", 100)])
    assert (sampled.tokens_per_second, sampled.seconds) == (None, None)
    assert "how long the sampled answers are" in sampled.speed_source
    assert sampled.memory_parts["weights"] == 2 * plain.memory_parts["weights"]
    assert sampled.longest_row == plain.longest_row + 64
