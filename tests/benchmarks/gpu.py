"""Training on a GPU in one script of under eight minutes: speed, share of the peak, memory, and parity with the CPU.

Usage: ``python -m tests.benchmarks.gpu`` on a machine with an NVIDIA GPU, ``python -m tests.benchmarks.gpu --device cpu
--tiny`` to try the script anywhere.

Bases have random weights and are loaded as a job loads them: of 0.5 billion parameters and of 8 billion, each in
bfloat16 and with 4-bit weights. Steps are those of the trainer (forward, backward, optimizer) on rows of equal length.
The peak is the best of large matrix products of the same precision in the same run; the work is computed from the
shapes, with the gradient of activations and without that of frozen weights. To compare with: Llama-3-8B with LoRA makes
12,473 tokens/s at 4,096 tokens on one H100. Source: https://github.com/NVIDIA-NeMo/Automodel,
docs/performance-summary.mdx, read 2026-11-28.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.plan import llama

BUDGET_SECONDS = 440.0
"""No case starts later than this after the start of the script."""
WARMUP_STEPS = 2
RATE, RANK = 1e-4, 16
PARITY_TOLERANCE = 1e-3
MAX_SHARD = "4GB"


@dataclass(frozen=True)
class Base:
    """A base model with random weights."""

    name: str
    config: dict[str, Any]
    tokens: int
    """Tokens of each row."""
    rows: int
    """Rows of each batch."""


ROPE, UNTIED = {"rope_theta": 500_000.0}, {"tie_word_embeddings": False}
SMALL = Base("0.5B", llama(24, 896, 4864, 14, 2, 151_936) | ROPE, tokens=1024, rows=4)
LARGE = Base("8B", llama(32, 4096, 14_336, 32, 8, 128_256) | ROPE | UNTIED, tokens=4096, rows=1)
TINY = Base("tiny", llama(2, 64, 128, 4, 2, 512) | ROPE | UNTIED, tokens=64, rows=2)


@dataclass
class Clock:
    """How much of the time is spent."""

    started_at: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started_at


def save_base(folder: Path, config: dict[str, Any], device: str) -> Path:
    """Save a base with random weights, which are drawn on the device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=MAX_SHARD)
    return folder


def make_examples(count: int, tokens: int, vocabulary: int, seed: int) -> list[Any]:
    """Rows of random tokens, of which the last fourth is trained, without a common beginning."""
    from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, Example

    numbers = random.Random(seed)
    examples = []
    for _ in range(count):
        ids = tuple(numbers.randrange(vocabulary) for _ in range(tokens))
        start = tokens - tokens // 4
        examples.append(Example(ids, (*[IGNORE_INDEX] * start, *ids[start:])))
    return examples


def load(folder: Path, device: str, precision: str, quantization: str, *, checkpointing: bool = False) -> Any:
    """The base with an adapter, as a job has it."""
    from ftpipe.modeling.device import DeviceConfig
    from ftpipe.modeling.loading import enable_gradient_checkpointing, load_base
    from ftpipe.training.causal_lm import LanguageModel
    from ftpipe.training.hyperparameters import ResolvedHyperparameters
    from ftpipe.training.lora import add_adapter

    hyperparameters = ResolvedHyperparameters(1, 1, 1.0, RATE, lora_r=RANK, lora_dropout=0.0)
    model = add_adapter(load_base(folder, DeviceConfig(device, precision, quantization)), hyperparameters, seed=1)
    if checkpointing:
        enable_gradient_checkpointing(model)
    return LanguageModel(model, micro_batch_tokens=1 << 20)


def train_steps(lm: Any, batches: Sequence[list[Any]], on_step: Callable[[], None] = lambda: None) -> list[float]:
    """Optimizer steps; the loss of each before it."""
    import torch

    from ftpipe.training.loss import SupervisedObjective
    from ftpipe.training.parallel import ParallelModel

    parameters = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    lm.train()
    losses = []
    for batch in batches:
        stats = ParallelModel(lm).backward(SupervisedObjective(batch), range(len(batch)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(stats.mean_loss)
        on_step()
    return losses


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def find_peak(device: str, size: int) -> float:
    """Operations per second of the best large product in bfloat16."""
    import torch

    left, right = (torch.rand(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(10):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def measure(base: Base, folder: Path, device: str, quantization: str, *, steps: int, peak: float) -> dict[str, Any]:
    """Speed and memory of the trainer on one base."""
    import torch

    from ftpipe.modeling.machine import Machine
    from ftpipe.modeling.memory import estimate_memory
    from ftpipe.modeling.model_shape import ModelShape
    from ftpipe.training.estimate import flops_per_token
    from ftpipe.training.hyperparameters import ResolvedHyperparameters
    from ftpipe.training.memory_settings import RowLengths, setup_of

    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    lm = load(folder, device, "bfloat16", quantization)
    vocabulary = base.config["vocab_size"]
    batches = [make_examples(base.rows, base.tokens, vocabulary, seed) for seed in range(WARMUP_STEPS + steps)]
    train_steps(lm, batches[:WARMUP_STEPS])
    synchronize(device)
    started = time.perf_counter()
    losses = train_steps(lm, batches[WARMUP_STEPS:])
    synchronize(device)
    seconds = time.perf_counter() - started
    speed = steps * base.rows * base.tokens / seconds
    shape = ModelShape.from_config(base.config)
    settings = ResolvedHyperparameters(1, base.rows, 1.0, RATE, lora_r=RANK, lora_dropout=0.0, max_length=base.tokens)
    settings = replace(settings, precision="bfloat16", quantization=quantization, micro_batch_tokens=1 << 20)
    rows = RowLengths(base.tokens, 0.25)
    row: dict[str, Any] = {"base": base.name, "quantization": quantization, "tokens_per_second": round(speed, 1)}
    if shape is not None:
        row["share_of_peak"] = round(speed * flops_per_token(shape, settings, rows) / peak, 4)
        row["planned_bytes"] = estimate_memory(shape, setup_of(settings, Machine(device, None), rows)).total
    if device == "cuda":
        row["allocated_bytes"] = torch.cuda.max_memory_allocated()
        row["reserved_bytes"] = torch.cuda.max_memory_reserved()
    return row | {"last_loss": round(losses[-1], 4)}


def parity(folder: Path, device: str) -> dict[str, Any]:
    """Losses of a small base on the device and on the CPU, in float32, and with checkpointing."""
    batches = [make_examples(TINY.rows, TINY.tokens, TINY.config["vocab_size"], seed) for seed in range(4)]
    losses = {
        "cpu": train_steps(load(folder, "cpu", "float32", "none"), batches),
        device: train_steps(load(folder, device, "float32", "none"), batches),
        "checkpointing": train_steps(load(folder, device, "float32", "none", checkpointing=True), batches),
    }
    largest = max(abs(a - b) for other in losses.values() for a, b in zip(losses["cpu"], other, strict=True))
    return {"losses": losses, "largest_difference": largest, "is_equal": largest <= PARITY_TOLERANCE}


def main() -> None:
    """Run all cases that fit into the time; one JSON line each, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny bases and two steps, to try the script")
    parser.add_argument("--steps", type=int, default=10, help="timed optimizer steps of each case")
    arguments = parser.parse_args()
    from ftpipe.modeling.device import use_passive_omp_wait
    from ftpipe.modeling.machine import can_quantize

    use_passive_omp_wait()
    clock, device = Clock(), arguments.device
    bases = [TINY] if arguments.tiny else [SMALL, LARGE]
    steps = 2 if arguments.tiny else arguments.steps
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        same = parity(save_base(Path(temporary) / "parity", TINY.config, "cpu"), device)
        write(same)
        peak = find_peak(device, 256 if arguments.tiny else 8192)
        for base in bases:
            folder = save_base(Path(temporary) / base.name, base.config, device)
            for quantization in ("none", *["4bit"] * can_quantize()):
                if clock.seconds > BUDGET_SECONDS:
                    write({"base": base.name, "quantization": quantization, "skipped": "the time is over"})
                    continue
                rows.append(measure(base, folder, device, quantization, steps=steps, peak=peak))
                write(rows[-1] | {"elapsed": round(clock.seconds, 1)})
    show(rows, same, peak)
    if not same["is_equal"]:
        sys.exit("the losses on both devices differ")


def write(row: dict[str, Any]) -> None:
    """Write one JSON line, so that what was measured is kept if the machine goes away."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def show(rows: Sequence[dict[str, Any]], same: dict[str, Any], peak: float) -> None:
    """Print the table."""
    lines = [
        f"largest difference of a loss from the CPU: {same['largest_difference']:.1e}",
        f"peak of bfloat16 products: {peak / 1e12:.1f} TFLOP/s",
        "",
        "| base | weights | tokens/s | of peak | planned MB | allocated MB | reserved MB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        sizes = (row.get(name, 0) / 1e6 for name in ("planned_bytes", "allocated_bytes", "reserved_bytes"))
        weights = "bfloat16" if row["quantization"] == "none" else row["quantization"]
        speed = f"{row['tokens_per_second']:,.0f} | {row.get('share_of_peak', 0):.1%}"
        lines.append(f"| {row['base']} | {weights} | {speed} | {' | '.join(f'{size:,.0f}' for size in sizes)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
