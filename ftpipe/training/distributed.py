"""Data-parallel training of one job: each process computes a shard of every batch, rank 0 sums the gradients.

Rank 0, the leader, is the trainer of the job. It alone holds the optimizer and writes the job directory, so pausing,
cancelling and crashing work as with one process. Before each step it broadcasts the adapter's weights and the rows of
the batch; each worker returns the summed gradient of its shard. A sharded batch has the gradient of the whole batch,
so the number of processes changes the speed and not the model. Messages are JSON and tensors, never pickle.

Why not accelerate or DistributedDataParallel: both need the same device and the same number of rows on every rank,
and a training script that is started on each of them. Here the machines can differ (a leader without a GPU beside
workers with one), a shard can be empty, and a worker needs neither the job directory nor the dataset.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.modeling.base_models import download_base, resolve_base
from ftpipe.modeling.device import DeviceConfig, select_device
from ftpipe.modeling.loading import enable_gradient_checkpointing, load_base
from ftpipe.modeling.types import CausalModel
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.dpo import DPOObjective
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.lora import add_uninitialized_adapter, trainable_parameters
from ftpipe.training.loss import LossStats
from ftpipe.training.trainer import Objective, SupervisedObjective

if TYPE_CHECKING:
    import torch

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
"""How long the processes wait for each other at the start; each of them loads the base model."""
STEP_TIMEOUT = timedelta(hours=2)
"""How long to wait for a message. A process that dies is noticed at once; this is for a machine that vanishes."""
OBJECTIVES: dict[str, type[SupervisedObjective | DPOObjective]] = {
    "supervised": SupervisedObjective,
    "dpo": DPOObjective,
}


def init_process_group(store: Any, *, rank: int, world_size: int) -> None:  # noqa: ANN401 - a torch.distributed store
    """Join the process group; returns when all processes have joined."""
    import torch.distributed as dist

    store.set_timeout(RENDEZVOUS_TIMEOUT)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=STEP_TIMEOUT)


def shard(indices: Sequence[int], shard_index: int, num_shards: int) -> list[int]:
    """Every ``num_shards``-th row: neighbours in a batch have similar lengths, so the shards take similar time."""
    return list(indices[shard_index::num_shards])


class DistributedObjective:
    """The leader's objective: its batches are computed by the whole process group.

    Args:
        local: The objective on the leader's own model.
        method: ``supervised`` or ``dpo``.
        model: The leader's model.
        task: Base model, adapter configuration and models directory, from which workers load the same model.
        world_size: Number of processes, the leader included.
        leader_computes: Whether the leader computes a shard as well.
    """

    def __init__(
        self,
        local: Objective,
        *,
        method: str,
        model: CausalModel,
        task: dict[str, Any],
        world_size: int,
        leader_computes: bool,
    ) -> None:
        self._local = local
        self._model = model
        self._num_shards = world_size if leader_computes else world_size - 1
        self._leader_computes = leader_computes
        broadcast_message({**task, "method": method, "objective": local.as_json(), "leader_computes": leader_computes})

    def as_json(self) -> dict[str, Any]:
        """The rows of the leader's objective."""
        return self._local.as_json()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training example."""
        return self._local.lengths

    @property
    def validation_rows(self) -> int:
        """Number of validation rows."""
        return self._local.validation_rows

    def backward(self, indices: Sequence[int], batch_indices: Sequence[int] | None = None) -> LossStats:
        """Accumulate the gradient of a batch; the statistics are those before the step."""
        import torch

        batch = list(indices if batch_indices is None else batch_indices)
        seed = torch.initial_seed()
        broadcast_message({"command": "backward", "indices": list(indices), "batch_indices": batch, "seed": seed})
        broadcast_parameters(self._model)
        rows = self._leader_shard(indices)
        stats = reduce_stats(self._local.backward(rows, batch) if rows else LossStats())
        reduce_gradients(self._model)
        return stats

    def validate(self, indices: Sequence[int] | None) -> LossStats:
        """Evaluate the validation rows at ``indices``, or all."""
        selected = list(range(self.validation_rows)) if indices is None else list(indices)
        broadcast_message({"command": "validate", "indices": selected})
        broadcast_parameters(self._model)
        rows = self._leader_shard(selected)
        return reduce_stats(self._local.validate(rows) if rows else LossStats())

    def close(self) -> None:
        """Shut down the worker processes."""
        import torch.distributed as dist

        broadcast_message({"command": "shutdown"})
        dist.destroy_process_group()

    def _leader_shard(self, indices: Sequence[int]) -> list[int]:
        return shard(indices, 0, self._num_shards) if self._leader_computes else []


def run_worker(store: Any, *, rank: int, world_size: int, models_dir: Path | None = None) -> None:  # noqa: ANN401
    """Compute shards for the leader until it shuts down.

    Args:
        store: The torch.distributed store of the rendezvous.
        rank: From 1; the leader has rank 0.
        world_size: Number of processes, the leader included.
        models_dir: This machine's models directory; ``None`` for the leader's path.
    """
    import torch
    import torch.distributed as dist

    init_process_group(store, rank=rank, world_size=world_size)
    task = receive_message()
    model, objective = _load_replica(task, models_dir)
    shard_index, num_shards = (rank, world_size) if task["leader_computes"] else (rank - 1, world_size - 1)
    while (message := receive_message())["command"] != "shutdown":
        indices = shard(message["indices"], shard_index, num_shards)
        broadcast_parameters(model)
        if message["command"] == "validate":
            reduce_stats(objective.validate(indices) if indices else LossStats())
        else:
            torch.manual_seed(message["seed"] + rank)
            model.train()
            reduce_stats(objective.backward(indices, message["batch_indices"]) if indices else LossStats())
            reduce_gradients(model)
    dist.destroy_process_group()


def _load_replica(task: dict[str, Any], models_dir: Path | None) -> tuple[CausalModel, Objective]:
    device_config = select_device(DeviceConfig(**task["device_config"]))
    if models_dir is None:
        base_dir = resolve_base(task["base_model"], models_dir=Path(task["models_dir"]))
    else:
        # Another machine of the operator's cluster; the leader's machine has the model, so its use is allowed.
        base_dir = download_base(task["base_model"], models_dir=models_dir)
    model = add_uninitialized_adapter(load_base(base_dir, device_config), task["adapter_config"])
    hyperparameters = ResolvedHyperparameters.from_json(task["hyperparameters"])
    if hyperparameters.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    lm = LanguageModel(model, micro_batch_tokens=hyperparameters.micro_batch_tokens)
    return model, OBJECTIVES[task["method"]].from_json(lm, task["objective"])


def broadcast_message(message: dict[str, Any]) -> None:
    """Send a message from the leader to all workers."""
    import torch
    import torch.distributed as dist

    data = bytearray(json.dumps(message).encode())
    dist.broadcast(torch.tensor([len(data)]), 0)
    dist.broadcast(torch.frombuffer(data, dtype=torch.uint8), 0)


def receive_message() -> dict[str, Any]:
    """Wait for the leader's next message."""
    import torch
    import torch.distributed as dist

    length = torch.zeros(1, dtype=torch.long)
    dist.broadcast(length, 0)
    data = torch.zeros(int(length), dtype=torch.uint8)
    dist.broadcast(data, 0)
    message: dict[str, Any] = json.loads(data.numpy().tobytes())
    return message


def broadcast_parameters(model: CausalModel) -> None:
    """Copy the leader's adapter weights to all workers."""
    import torch
    import torch.distributed as dist

    tensors = [tensor for _, tensor in trainable_parameters(model)]
    flat = torch.cat([tensor.detach().float().cpu().flatten() for tensor in tensors])
    dist.broadcast(flat, 0)
    if dist.get_rank() == 0:
        return
    with torch.no_grad():
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def reduce_stats(stats: LossStats) -> LossStats:
    """Sum the statistics of all shards; the result counts on the leader only."""
    import torch
    import torch.distributed as dist

    summed = torch.tensor([stats.loss, stats.correct, stats.tokens], dtype=torch.float64)
    dist.reduce(summed, 0)
    return LossStats(float(summed[0]), int(summed[1]), int(summed[2]))


def reduce_gradients(model: CausalModel) -> None:
    """Sum the gradients of all shards on the leader; workers drop theirs."""
    import torch
    import torch.distributed as dist

    tensors = [tensor for _, tensor in trainable_parameters(model)]
    flat = torch.cat([_flat_gradient(tensor) for tensor in tensors])
    dist.reduce(flat, 0)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.grad = part.view_as(tensor).to(tensor) if dist.get_rank() == 0 else None


def _flat_gradient(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.zeros(tensor.numel()) if tensor.grad is None else tensor.grad.detach().float().cpu().flatten()
