"""Estimate memory and time of a job from the base model's configuration, the data and the machine; without torch."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ftpipe.formatting import plural
from ftpipe.modeling.base_facts import BaseFacts
from ftpipe.modeling.machine import Machine
from ftpipe.modeling.memory import estimate_memory
from ftpipe.modeling.model_shape import ModelShape
from ftpipe.records.training_estimate import TrainingEstimate
from ftpipe.training.hyperparameters import DEFAULT_CONTEXT, ResolvedHyperparameters, resolve_hyperparameters
from ftpipe.training.measured_jobs import ComputeKind, MeasuredJob
from ftpipe.training.memory_settings import MemoryChoice, RowLengths, choose_settings, computed_rows, setup_of

CORE_FLOPS = {"float32": 54e9, "bfloat16": 64e9}
"""Operations per second of one core with AVX-512, in whole jobs. Source: the default model on two cores of an AMD EPYC,
238 and 285 tokens per second, measured 2026-11-28. It is a rough first guess: finished jobs replace it."""
MIN_LENGTH = 64
"""Shorter rows are not proposed."""


@dataclass(frozen=True, slots=True)
class JobData:
    """What is known about a job's data.

    Attributes:
        rows: Lengths of the rows; a sample if there is no file.
        examples: Rows of the file.
        tokens: Tokens of all rows; ``None`` without a file.
    """

    rows: RowLengths
    examples: int
    tokens: int | None = None


def estimate_training(
    base: str,
    facts: BaseFacts,
    requested: Mapping[str, Any],
    data: JobData,
    machine: Machine,
    *,
    method: str = "supervised",
    jobs: Sequence[MeasuredJob] = (),
    can_quantize: bool = True,
) -> TrainingEstimate:
    """What a job needs, with the settings that the trainer would choose for the machine.

    Args:
        base: Name of the base model.
        facts: Its dimensions.
        requested: The job's hyperparameters, as it sets them.
        data: What is known about its data.
        machine: What it is trained on.
        method: ``supervised``, ``dpo`` or ``reinforcement``, whose time is not known before: answers have any length.
        jobs: Finished jobs of the same machine; the speed is learnt from them.
        can_quantize: Whether the package for quantized weights is installed.

    Raises:
        UsageError: A hyperparameter is out of range.
    """
    resolved = resolve_hyperparameters(
        requested,
        examples=data.examples,
        parameters=facts.parameters,
        max_context=facts.context or DEFAULT_CONTEXT,
        on_accelerator=machine.device != "cpu",
        method=method,
    )
    rows, shape = computed_rows(data.rows, resolved), facts.shape
    choice = choose_settings(resolved, requested, shape=shape, machine=machine, rows=rows, can_quantize=can_quantize)
    settings = choice.hyperparameters
    speed, source = _speed(base, shape, settings, rows, machine, jobs)
    seconds = data.tokens * settings.n_epochs / speed if data.tokens is not None and speed else None
    return TrainingEstimate(
        base=base,
        device=machine.device,
        devices=machine.count,
        is_sharded=choice.fits and choice.shards > 1,
        precision=settings.precision,
        quantization=settings.quantization,
        gradient_checkpointing=settings.gradient_checkpointing,
        batch_size=settings.batch_size,
        n_epochs=settings.n_epochs,
        max_length=settings.max_length,
        micro_batch_tokens=settings.micro_batch_tokens,
        longest_row=rows.longest,
        tokens_per_epoch=data.tokens,
        **_memory_fields(choice, machine),
        reasons=choice.reasons,
        remedies=tuple(_remedies(choice, requested, shape, machine, rows)),
        tokens_per_second=round(speed, 1) if speed else None,
        speed_source=source,
        seconds=round(seconds, 1) if seconds else None,
    )


def _memory_fields(choice: MemoryChoice, machine: Machine) -> dict[str, Any]:
    """Memory in the estimate: its parts, and whether the machine has so much."""
    memory = choice.estimate
    if memory is None:
        return {"available_bytes": machine.usable_bytes}
    parts = {name: size for name, size in asdict(memory).items() if name != "mapped"}
    return {
        "memory_bytes": memory.required,
        "memory_parts": parts,
        "mapped_bytes": memory.mapped,
        "available_bytes": machine.usable_bytes,
        "fits": None if machine.usable_bytes is None else choice.fits,
    }


def _speed(
    base: str,
    shape: ModelShape | None,
    settings: ResolvedHyperparameters,
    rows: RowLengths,
    machine: Machine,
    jobs: Sequence[MeasuredJob],
) -> tuple[float | None, str]:
    """Tokens per second of all devices together, and where the figure comes from."""
    if settings.max_completion_tokens is not None:
        return None, "it depends on how long the sampled answers are; the job's first steps show it"
    kind = ComputeKind(machine.device, settings.precision, settings.quantization, settings.gradient_checkpointing)
    similar = [job for job in jobs if job.kind == kind]
    own = [job.tokens_per_second for job in similar if job.base == base and job.targets == settings.target_modules]
    if own:
        return statistics.median(own), f"measured in {plural(len(own), 'earlier job')} here with this base"
    if shape is None:
        return None, ""
    work = flops_per_token(shape, settings, rows)
    rates = [
        job.tokens_per_second * flops_per_token(job.shape, replace(settings, target_modules=job.targets), rows)
        for job in similar
        if job.shape is not None
    ]
    if rates:
        return statistics.median(rates) / work, f"from {plural(len(rates), 'earlier job')} here, scaled by size"
    if machine.device != "cpu":
        return None, ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    guess = cores * CORE_FLOPS[settings.precision] / work
    return guess, f"a rough guess for {plural(cores, 'core')}; finished jobs here make it exact"


def flops_per_token(shape: ModelShape, settings: ResolvedHyperparameters, rows: RowLengths) -> float:
    """Multiplications and additions for one token: forward, and backward through frozen weights, and the head.

    Weights of the base get no gradient, so the backward pass costs as much as the forward pass, and not twice as much.
    """
    passes = 2 + settings.gradient_checkpointing
    attention = 2 * shape.layers * shape.queries * rows.longest  # half of the pairs of tokens, scores and values
    layers = 2 * shape.active_parameters + attention
    adapter = 3 * 2 * shape.adapter_parameters(settings.target_modules, settings.lora_r)
    head = 2 * 2 * shape.hidden * shape.vocabulary * rows.trained_part
    return passes * layers + adapter + head


def _remedies(
    choice: MemoryChoice, requested: Mapping[str, Any], shape: ModelShape | None, machine: Machine, rows: RowLengths
) -> Iterator[str]:
    """Settings with which the job fits, the least harmful first; none if it fits, or if nothing helps."""
    if choice.fits or shape is None:
        return
    usable = machine.usable_bytes or 0

    def needs(settings: ResolvedHyperparameters) -> int:
        return estimate_memory(shape, setup_of(settings, machine, rows)).required

    smallest = choice.hyperparameters
    changes = (
        ("--precision bfloat16", {"precision": "bfloat16"}),
        ("--gradient-checkpointing", {"gradient_checkpointing": True, "micro_batch_tokens": 1}),
        ("--quantization 4bit", {"quantization": "4bit"}),
    )
    flags: list[str] = []
    for flag, change in changes:
        if flag.startswith("--precision") and requested.get("precision") != "float32":
            continue
        if any(getattr(smallest, name) != value for name, value in change.items() if name != "micro_batch_tokens"):
            flags.append(flag)
        smallest = replace(smallest, **change)
        if flags and needs(smallest) <= usable:
            yield " ".join(flags)
            return
    length = rows.longest
    while length > MIN_LENGTH and needs(replace(smallest, max_length=length)) > usable:
        length //= 2
    if needs(replace(smallest, max_length=length)) <= usable:
        yield " ".join([*flags, f"--max-length {length}"])
