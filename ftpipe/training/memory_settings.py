"""Choose how a base model is trained so that it fits: quantization, checkpointing, micro-batches, shared weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftpipe.formatting import format_bytes
from ftpipe.modeling.machine import Machine
from ftpipe.modeling.memory import MemoryEstimate, TrainingSetup, estimate_memory
from ftpipe.modeling.model_shape import ModelShape
from ftpipe.training.hyperparameters import MIN_MICRO_BATCH_TOKENS, ResolvedHyperparameters

MEMORY_FIELDS = ("precision", "quantization", "gradient_checkpointing", "micro_batch_tokens")
"""Hyperparameters that are chosen by what the machine has, unless the job sets them."""


@dataclass(frozen=True, slots=True)
class RowLengths:
    """What is known about the rows of a dataset.

    Attributes:
        longest: Tokens of the longest row.
        trained_part: Part of all tokens that is trained.
        rows_per_example: Sequences of an example: 2 for preference pairs.
    """

    longest: int
    trained_part: float = 1.0
    rows_per_example: int = 1

    def cut_to(self, max_length: int) -> RowLengths:
        """The lengths when longer rows are cut."""
        return replace(self, longest=min(self.longest, max_length))

    @classmethod
    def of(cls, lengths: Sequence[int], trained: int, *, rows_per_example: int = 1) -> RowLengths:
        """From the length of each sequence, and how many of their tokens are trained."""
        return cls(max(lengths), trained / max(1, sum(lengths)), rows_per_example)


def computed_rows(rows: RowLengths, resolved: ResolvedHyperparameters) -> RowLengths:
    """What is trained on: the rows as they are cut, in reinforcement a group of answers to each prompt."""
    if resolved.max_completion_tokens is None:
        return rows.cut_to(resolved.max_length)
    longest = min(rows.longest + resolved.max_completion_tokens, resolved.max_length)
    return RowLengths(longest, min(1.0, resolved.max_completion_tokens / longest), resolved.group_size)


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """Settings, the memory that they need, and why they were chosen.

    Attributes:
        estimate: ``None`` if the architecture is not known.
        reasons: What ``auto`` changed, as sentences for the events of the job.
        fits: Whether the device has so much memory; true if one of both is not known.
        shards: Devices that share the base model's weights.
    """

    hyperparameters: ResolvedHyperparameters
    estimate: MemoryEstimate | None
    fits: bool = True
    reasons: tuple[str, ...] = ()
    shards: int = 1


def choose_settings(
    resolved: ResolvedHyperparameters,
    requested: Mapping[str, Any],
    *,
    shape: ModelShape | None,
    machine: Machine,
    rows: RowLengths,
    can_quantize: bool,
    strategy: str = "auto",
) -> MemoryChoice:
    """The fastest settings that fit into the machine, where the job leaves the choice.

    Smaller parts of a batch come first, because they cost next to nothing; then checkpointing, which computes the
    layers twice; then 4-bit weights, which change the model that is trained on; then devices that share its weights.

    Args:
        resolved: The job's hyperparameters.
        requested: Those that the job sets; the others of ``MEMORY_FIELDS`` are chosen.
        shape: The base model's dimensions; ``None`` if they are not known.
        machine: What the job is trained on.
        rows: What is known about the data.
        can_quantize: Whether quantization can be chosen.
        strategy: ``ddp`` if each device has the whole base, ``fsdp`` if all share it, ``auto`` for what fits.
    """
    free = {name for name in MEMORY_FIELDS if requested.get(name) in (None, "auto")}
    if "precision" in free:
        resolved = replace(resolved, precision=machine.precision)
    if shape is None:
        return MemoryChoice(resolved, None)
    first: MemoryChoice | None = None
    for shards in _shard_counts(strategy, machine.count, resolved.quantization):
        for candidate in _candidates(resolved, free, rows, can_quantize=can_quantize and shards == 1):
            estimate = estimate_memory(shape, setup_of(candidate, machine, rows, shards=shards))
            fits = machine.usable_bytes is None or estimate.required <= machine.usable_bytes
            choice = MemoryChoice(candidate, estimate, fits, shards=shards)
            if fits:
                return replace(choice, reasons=tuple(_reasons(choice, first)))
            first = first or choice
    return choice


def setup_of(
    resolved: ResolvedHyperparameters, machine: Machine, rows: RowLengths, *, shards: int = 1
) -> TrainingSetup:
    """What the memory of a job depends on."""
    longest = rows.cut_to(resolved.max_length).longest
    answer = resolved.max_completion_tokens
    sampled: dict[str, int] = {}
    if answer is not None:
        prompt = max(1, rows.longest - answer)
        sampled = {"sampled_prompt": prompt, "sampled_length": rows.longest, "sampled_prompts": resolved.batch_size}
    together = min(resolved.batch_size * rows.rows_per_example * longest, max(longest, resolved.micro_batch_tokens))
    return TrainingSetup(
        device=machine.device,
        precision=resolved.precision,
        quantization=resolved.quantization,
        gradient_checkpointing=resolved.gradient_checkpointing,
        rank=resolved.lora_r,
        targets=resolved.target_modules,
        dropout=resolved.lora_dropout > 0,
        rows=together / longest,
        tokens=longest,
        trained_tokens=round(together * rows.trained_part),
        shards=shards,
        copies=1 if answer is None else 2,
        **sampled,
    )


def describe_choice(choice: MemoryChoice) -> Iterator[str]:
    """How the base model is loaded, how much memory is planned, and what was changed to make it fit."""
    settings = choice.hyperparameters
    weights = "" if settings.quantization == "none" else f" with {settings.quantization} weights"
    planned = f"; {format_bytes(choice.estimate.required)} of memory are planned" if choice.estimate else ""
    yield f"The base model is loaded in {settings.precision}{weights}{planned}"
    yield from choice.reasons
    if not choice.fits:
        yield "That is more than this machine can give; the job may end because the memory runs out"


def _shard_counts(strategy: str, devices: int, quantization: str) -> list[int]:
    """Numbers of devices that can share the weights, the fastest first; quantized weights cannot be divided."""
    if strategy == "ddp" or quantization != "none":
        return [1]
    return [devices] if strategy == "fsdp" or devices == 1 else [1, devices]


def _candidates(
    resolved: ResolvedHyperparameters, free: set[str], rows: RowLengths, *, can_quantize: bool
) -> Iterator[ResolvedHyperparameters]:
    """Every combination of what can be chosen, the fastest first."""
    quantizations = ["none", *["4bit"] * can_quantize] if "quantization" in free else [resolved.quantization]
    checkpointing = [False, True] if "gradient_checkpointing" in free else [resolved.gradient_checkpointing]
    sizes = [resolved.micro_batch_tokens]
    while "micro_batch_tokens" in free and sizes[-1] // 2 >= max(MIN_MICRO_BATCH_TOKENS, rows.longest):
        sizes.append(sizes[-1] // 2)
    for quantization in quantizations:
        for is_checkpointing in checkpointing:
            for size in sizes:
                yield replace(
                    resolved,
                    quantization=quantization,
                    gradient_checkpointing=is_checkpointing,
                    micro_batch_tokens=size,
                )


def _reasons(choice: MemoryChoice, first: MemoryChoice | None) -> Iterator[str]:
    """What was chosen because the fastest settings do not fit."""
    if first is None or first.estimate is None or choice.estimate is None:
        return
    old, new = first.hyperparameters, choice.hyperparameters
    changes = []
    if choice.shards != first.shards:
        changes.append(f"{choice.shards} processes share the base model's weights")
    if new.quantization != old.quantization:
        changes.append(f"the base model is loaded with {new.quantization} weights")
    if new.gradient_checkpointing != old.gradient_checkpointing:
        changes.append("activations are computed twice instead of kept")
    if new.micro_batch_tokens != old.micro_batch_tokens:
        changes.append(f"at most {new.micro_batch_tokens:,} tokens are computed together")
    yield (
        f"To fit into memory, {' and '.join(changes)}: {format_bytes(choice.estimate.required)} are needed, "
        f"and {format_bytes(first.estimate.required)} without that"
    )
