"""The model of one process, alone or as one of several that train a job together with DDP or FSDP of torch.

With DDP (``DistributedDataParallel``) each process has the whole model. With FSDP (its second version,
``fully_shard``) each has a part of every layer, and the parts are put together when a layer is computed. Either way
each process computes a shard of every batch, and the gradients are averaged over the processes. The loss is scaled so
that the average is the gradient of the whole batch: the number of processes changes the speed and not the model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ftpipe.errors import UsageError
from ftpipe.modeling.chat_tokenizer import Example
from ftpipe.modeling.machine import USABLE_PART, available_memory
from ftpipe.training.batching import micro_batches
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.lora import trainable_parameters
from ftpipe.training.loss import BatchObjective, LossStats, evaluate_rows

LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
"""How long the processes wait for each other at the start."""
STEP_TIMEOUT = timedelta(hours=2)
"""How long to wait for another process. One that dies is noticed at once; this is for a machine that vanishes."""


@dataclass(frozen=True)
class Rank:
    """One of the processes that train a job.

    Attributes:
        index: From 0; the process of rank 0 reports.
        world_size: Number of processes.
        strategy: ``ddp`` or ``fsdp``; without effect if there is one process.
    """

    index: int = 0
    world_size: int = 1
    strategy: str = "ddp"


ALONE = Rank()
"""The only process of a job."""


def choose_strategy(requested: str, *, required_bytes: int, memory_bytes: int, is_quantized: bool = False) -> str:
    """Resolve ``auto``: ``fsdp`` if a process with the whole base does not fit, else ``ddp``, which sends less.

    Args:
        requested: ``ddp``, ``fsdp`` or ``auto``.
        required_bytes: What a process needs that has the whole base.
        memory_bytes: What each process can have, from ``memory_per_process``.
        is_quantized: Whether the base has quantized weights.

    Raises:
        UsageError: Weights that are quantized cannot be divided.
    """
    if requested == "fsdp" and is_quantized:
        raise UsageError(
            "fsdp cannot divide a base with quantized weights",
            "set the hyperparameter quantization to none, or serve with --strategy ddp",
        )
    if requested != "auto" or is_quantized:
        return "ddp" if requested == "auto" else requested
    return "fsdp" if required_bytes > USABLE_PART * memory_bytes else "ddp"


def memory_per_process(processes: int) -> int:
    """Memory in bytes that each of the processes of this machine can have: that of the smallest GPU, else its share."""
    import psutil

    if torch.cuda.is_available():
        gpus = range(torch.cuda.device_count())
        return min(int(torch.cuda.get_device_properties(gpu).total_memory) for gpu in gpus)
    return (available_memory() or int(psutil.virtual_memory().total)) // processes


@contextmanager
def process_group(store: Any, rank: Rank, device: str) -> Iterator[None]:  # noqa: ANN401 - torch is untyped here
    """Join the other processes at a store of torch.distributed, with NCCL on GPUs and gloo on CPUs."""
    store.set_timeout(RENDEZVOUS_TIMEOUT)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=store,
        rank=rank.index,
        world_size=rank.world_size,
        timeout=STEP_TIMEOUT,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


class ParallelModel:
    """A language model that is trained by one process or several.

    Args:
        lm: The whole model; every process makes the same one. FSDP leaves a part of it in each process.
        rank: Which process this is.

    Attributes:
        module: Computes losses. Whatever is trained or evaluated goes through it, because a call of ``lm`` would not
            exchange gradients or weights.
    """

    def __init__(self, lm: LanguageModel, rank: Rank = ALONE) -> None:
        self.lm = lm
        self.rank = rank
        self.module: Any = lm
        if rank.world_size > 1:
            with torch.no_grad():
                for _, parameter in trainable_parameters(lm.model):
                    dist.broadcast(parameter, 0)
            self.module = _shard(lm, rank.world_size) if rank.strategy == "fsdp" else _replicate(lm)

    def backward(self, objective: BatchObjective, batch: Sequence[int]) -> LossStats:
        """Accumulate the gradient of a batch's mean loss; the statistics of the batch are those before the step.

        Every process makes the same number of passes: one that has fewer micro-batches repeats a row with weight 0,
        because the others wait for it.
        """
        size, limit = self.rank.world_size, self.lm.micro_batch_tokens
        shards = [objective.micro_batches(batch[index::size], limit) for index in range(size)]
        parts, passes, total = shards[self.rank.index], max(map(len, shards)), objective.weight(batch)
        stats = LossStats()
        for number in range(passes):
            is_spare = number >= len(parts)
            rows = objective.micro_batches(batch[:1], limit)[0] if is_spare else parts[number]
            with self._gradient_exchange(enabled=number == passes - 1):
                loss, part_stats = objective.loss(self.module, rows)
                (loss * (0.0 if is_spare else size / total)).backward()
            if not is_spare:
                stats += part_stats
        return LossStats.from_row(self.sum(stats.as_row()))

    def evaluate_rows(self, examples: Sequence[Example]) -> list[LossStats]:
        """Loss and accuracy of each example, in evaluation mode; each process computes a shard of them."""
        size, index, limit = self.rank.world_size, self.rank.index, self.lm.micro_batch_tokens
        if size == 1 or not examples:
            return evaluate_rows(self.module, examples, max_tokens=limit)
        passes = [len(micro_batches(examples[start::size], limit)) for start in range(size)]
        spare = [min(examples, key=lambda example: len(example.ids))]
        rows = evaluate_rows(self.module, examples[index::size], max_tokens=limit)
        for _ in range(max(passes) - passes[index]):
            evaluate_rows(self.module, spare)
        table = [[0.0] * len(LossStats().as_row()) for _ in examples]
        table[index::size] = [row.as_row() for row in rows]
        summed = self.sum([value for row in table for value in row])
        width = len(table[0])
        return [LossStats.from_row(summed[start : start + width]) for start in range(0, len(summed), width)]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes."""
        if self.rank.world_size == 1:
            return list(values)
        # float64 holds the counts exactly; Apple's GPUs lack it, and no process group works on them
        summed = torch.tensor(values, dtype=torch.float64, device=self.lm.device)
        dist.all_reduce(summed)
        result: list[float] = summed.tolist()
        return result

    def _gradient_exchange(self, *, enabled: bool) -> AbstractContextManager[None]:
        """Whether the backward pass in this context averages the gradients that have accumulated."""
        if self.rank.world_size > 1 and self.rank.strategy == "fsdp":
            self.module.set_requires_gradient_sync(enabled)
        elif self.rank.world_size > 1 and not enabled:
            no_sync: AbstractContextManager[None] = self.module.no_sync()
            return no_sync
        return nullcontext()


def _replicate(lm: LanguageModel) -> Any:  # noqa: ANN401 - torch is untyped here
    from torch.nn.parallel import DistributedDataParallel

    # All processes have loaded the same base, and the adapter was sent: the whole base need not be sent, too.
    return DistributedDataParallel(lm, init_sync=False)


def _shard(lm: LanguageModel, world_size: int) -> Any:  # noqa: ANN401 - torch is untyped here
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(lm.device.type, (world_size,))
    for layer in lm.layers():
        fully_shard(layer, mesh=mesh)
    # Not only the layers: an evaluation would leave the embeddings whole in every process.
    return fully_shard(lm, mesh=mesh, reshard_after_forward=True)
