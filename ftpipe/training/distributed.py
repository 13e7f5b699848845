"""One job on several processes: each computes its share of every batch, and the gradients meet in the first one.

The leader (rank 0) is the trainer of the job: it alone holds the optimizer and writes the job's folder, so pausing,
cancelling and crashing are what they are with one process. The others follow: they get the adapter's weights and the
rows of a step, and give back the sum of their gradients. A batch that is split this way has the gradient of the whole
batch, so the number of processes changes the speed and not what is learnt. Messages are JSON and tensors, no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.modeling.base_models import resolve_base
from ftpipe.modeling.device import DeviceConfig, select_device
from ftpipe.modeling.loading import load_base
from ftpipe.modeling.types import CausalModel
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.dpo import DPOObjective
from ftpipe.training.lora import trained_parameters, with_empty_adapter
from ftpipe.training.loss import LossStats
from ftpipe.training.trainer import Objective, SupervisedObjective

if TYPE_CHECKING:
    import torch

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
"""How long the processes wait for each other at the start: every one of them loads the base."""
STEP_TIME = timedelta(hours=2)
"""How long a message may be waited for. A process that dies is noticed at once; this is for a machine that vanishes."""
OBJECTIVES: dict[str, type[SupervisedObjective | DPOObjective]] = {
    "supervised": SupervisedObjective,
    "dpo": DPOObjective,
}


def init_process_group(store: Any, *, rank: int, size: int) -> None:  # noqa: ANN401 - a store of torch
    """Join the team; returns when all are there."""
    import torch.distributed as dist

    store.set_timeout(RENDEZVOUS_TIMEOUT)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=STEP_TIME)


def shard(indices: Sequence[int], place: int, workers: int) -> list[int]:
    """The rows of one worker; neighbours in a batch are of like length, so dealing them out is fair."""
    return list(indices[place::workers])


class DistributedObjective:
    """An objective whose batches are computed by a team; the leader's side.

    Args:
        own: The objective on the leader's own model.
        method: ``supervised`` or ``dpo``.
        model: The leader's model.
        task: Base, plan and folder of models, for the followers to load the same.
        size: Processes, the leader among them.
        leader_computes: Whether the leader takes a share, too.
    """

    def __init__(
        self,
        own: Objective,
        *,
        method: str,
        model: CausalModel,
        task: dict[str, Any],
        size: int,
        leader_computes: bool,
    ) -> None:
        self._own = own
        self._model = model
        self._workers = size if leader_computes else size - 1
        self._works = leader_computes
        broadcast_message({**task, "method": method, "objective": own.as_json(), "leader_computes": leader_computes})

    def as_json(self) -> dict[str, Any]:
        """The rows of the leader's objective."""
        return self._own.as_json()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training example."""
        return self._own.lengths

    @property
    def validation_rows(self) -> int:
        """How many validation rows there are."""
        return self._own.validation_rows

    def backward(self, indices: Sequence[int], of: Sequence[int] | None = None) -> LossStats:
        """Add the gradient of one batch and score it before the step."""
        import torch

        whole = indices if of is None else of
        broadcast_message({"do": "learn", "indices": list(indices), "of": list(whole), "seed": torch.initial_seed()})
        broadcast_parameters(self._model)
        mine = shard(indices, 0, self._workers) if self._works else []
        return reduce_gradients(self._model, self._own.backward(mine, whole) if mine else LossStats(), gradients=True)

    def validate(self, indices: Sequence[int] | None) -> LossStats:
        """Score the validation rows at ``indices``, or all."""
        chosen = list(range(self.validation_rows)) if indices is None else list(indices)
        broadcast_message({"do": "validate", "indices": chosen})
        broadcast_parameters(self._model)
        mine = shard(chosen, 0, self._workers) if self._works else []
        return reduce_gradients(self._model, self._own.validate(mine) if mine else LossStats(), gradients=False)

    def close(self) -> None:
        """Send the others home."""
        import torch.distributed as dist

        broadcast_message({"do": "end"})
        dist.destroy_process_group()


def run_worker(store: Any, *, rank: int, size: int, models_dir: Path | None = None) -> None:  # noqa: ANN401
    """Work for a leader until it ends.

    Args:
        store: Where the team meets.
        rank: From 1.
        size: Processes of the team, the leader among them.
        models_dir: Where this machine keeps models; ``None`` for where the leader does.
    """
    import torch
    import torch.distributed as dist

    init_process_group(store, rank=rank, size=size)
    task = receive_message()
    model, objective = _load_replica(task, models_dir)
    place, workers = (rank, size) if task["leader_computes"] else (rank - 1, size - 1)
    while (command := receive_message())["do"] != "end":
        mine = shard(command["indices"], place, workers)
        broadcast_parameters(model)
        score = LossStats()
        if command["do"] == "validate":
            score = objective.validate(mine) if mine else score
        else:
            torch.manual_seed(command["seed"] + rank)
            model.train()
            score = objective.backward(mine, command["of"]) if mine else score
        reduce_gradients(model, score, gradients=command["do"] == "learn")
    dist.destroy_process_group()


def _load_replica(task: dict[str, Any], models_dir: Path | None) -> tuple[CausalModel, Objective]:
    machine, leader = select_device(), DeviceConfig(**task["device_config"])
    machine = leader if machine.device == leader.device else machine
    base = load_base(resolve_base(task["base"], models_dir=models_dir or Path(task["models_dir"])), machine)
    model = with_empty_adapter(base, task["adapter"])
    return model, OBJECTIVES[task["method"]].from_json(LanguageModel(model), task["objective"])


def broadcast_message(message: dict[str, Any]) -> None:
    """The leader's word to all."""
    import torch
    import torch.distributed as dist

    data = bytearray(json.dumps(message).encode())
    dist.broadcast(torch.tensor([len(data)]), 0)
    dist.broadcast(torch.frombuffer(data, dtype=torch.uint8), 0)


def receive_message() -> dict[str, Any]:
    """The leader's next word."""
    import torch
    import torch.distributed as dist

    length = torch.zeros(1, dtype=torch.long)
    dist.broadcast(length, 0)
    data = torch.zeros(int(length), dtype=torch.uint8)
    dist.broadcast(data, 0)
    message: dict[str, Any] = json.loads(data.numpy().tobytes())
    return message


def broadcast_parameters(model: CausalModel) -> None:
    """Give the leader's adapter weights to all."""
    import torch
    import torch.distributed as dist

    tensors = [tensor for _, tensor in trained_parameters(model)]
    flat = torch.cat([tensor.detach().float().cpu().flatten() for tensor in tensors])
    dist.broadcast(flat, 0)
    if dist.get_rank() == 0:
        return
    with torch.no_grad():
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def reduce_gradients(model: CausalModel, score: LossStats, *, gradients: bool) -> LossStats:
    """Sum scores, and gradients where asked, at the leader; followers start the next step without any."""
    import torch
    import torch.distributed as dist

    summed = torch.tensor([score.loss, score.correct, score.tokens], dtype=torch.float64)
    dist.reduce(summed, 0)
    tensors = [tensor for _, tensor in trained_parameters(model)]
    if gradients:
        flat = torch.cat([_gradient(tensor) for tensor in tensors])
        dist.reduce(flat, 0)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.grad = part.view_as(tensor).to(tensor) if dist.get_rank() == 0 else None
    return LossStats(float(summed[0]), int(summed[1]), int(summed[2]))


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.zeros(tensor.numel()) if tensor.grad is None else tensor.grad.detach().float().cpu().flatten()
