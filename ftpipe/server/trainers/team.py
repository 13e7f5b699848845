"""One job on several processes: each computes its share of every batch, and the gradients meet in the first one.

The captain (rank 0) is the trainer of the job: it alone holds the optimizer and writes the job's folder, so pausing,
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

from ftpipe.server.bases import resolve_base
from ftpipe.server.trainers.dpo import Preference
from ftpipe.server.trainers.language_model import LanguageModel
from ftpipe.server.trainers.loop import Objective, Supervised
from ftpipe.server.trainers.lora import load_base, trained_parameters, wrap
from ftpipe.server.trainers.losses import Score
from ftpipe.server.trainers.machine import Machine, choose_machine
from ftpipe.server.untyped import CausalModel

if TYPE_CHECKING:
    import torch

MEETING_TIME = timedelta(minutes=10)
"""How long the processes wait for each other at the start: every one of them loads the base."""
STEP_TIME = timedelta(hours=2)
"""How long a message may be waited for. A process that dies is noticed at once; this is for a machine that vanishes."""
KINDS: dict[str, type[Supervised | Preference]] = {"supervised": Supervised, "dpo": Preference}


def meet(store: Any, *, rank: int, size: int) -> None:  # noqa: ANN401 - a store of torch
    """Join the team; returns when all are there."""
    import torch.distributed as dist

    store.set_timeout(MEETING_TIME)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=STEP_TIME)


def share(indices: Sequence[int], place: int, workers: int) -> list[int]:
    """The rows of one worker; neighbours in a batch are of like length, so dealing them out is fair."""
    return list(indices[place::workers])


class Shared:
    """An objective whose batches are computed by a team; the captain's side.

    Args:
        own: The objective on the captain's own model.
        method: ``supervised`` or ``dpo``.
        model: The captain's model.
        task: Base, plan and folder of models, for the followers to load the same.
        size: Processes, the captain among them.
        captain_works: Whether the captain takes a share, too.
    """

    def __init__(
        self,
        own: Objective,
        *,
        method: str,
        model: CausalModel,
        task: dict[str, Any],
        size: int,
        captain_works: bool,
    ) -> None:
        self._own = own
        self._model = model
        self._workers = size if captain_works else size - 1
        self._works = captain_works
        send({**task, "method": method, "objective": own.as_json(), "captain_works": captain_works})

    def as_json(self) -> dict[str, Any]:
        """The rows of the captain's objective."""
        return self._own.as_json()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training example."""
        return self._own.lengths

    @property
    def validation_rows(self) -> int:
        """How many validation rows there are."""
        return self._own.validation_rows

    def learn(self, indices: Sequence[int], of: Sequence[int] | None = None) -> Score:
        """Add the gradient of one batch and score it before the step."""
        import torch

        whole = indices if of is None else of
        send({"do": "learn", "indices": list(indices), "of": list(whole), "seed": torch.initial_seed()})
        spread(self._model)
        mine = share(indices, 0, self._workers) if self._works else []
        return gather(self._model, self._own.learn(mine, whole) if mine else Score(), gradients=True)

    def validate(self, indices: Sequence[int] | None) -> Score:
        """Score the validation rows at ``indices``, or all."""
        chosen = list(range(self.validation_rows)) if indices is None else list(indices)
        send({"do": "validate", "indices": chosen})
        spread(self._model)
        mine = share(chosen, 0, self._workers) if self._works else []
        return gather(self._model, self._own.validate(mine) if mine else Score(), gradients=False)

    def close(self) -> None:
        """Send the others home."""
        import torch.distributed as dist

        send({"do": "end"})
        dist.destroy_process_group()


def follow(store: Any, *, rank: int, size: int, models_dir: Path | None = None) -> None:  # noqa: ANN401
    """Work for a captain until it ends.

    Args:
        store: Where the team meets.
        rank: From 1.
        size: Processes of the team, the captain among them.
        models_dir: Where this machine keeps models; ``None`` for where the captain does.
    """
    import torch
    import torch.distributed as dist

    meet(store, rank=rank, size=size)
    task = receive()
    model, objective = _same_as_captain(task, models_dir)
    place, workers = (rank, size) if task["captain_works"] else (rank - 1, size - 1)
    while (command := receive())["do"] != "end":
        mine = share(command["indices"], place, workers)
        spread(model)
        score = Score()
        if command["do"] == "validate":
            score = objective.validate(mine) if mine else score
        else:
            torch.manual_seed(command["seed"] + rank)
            model.train()
            score = objective.learn(mine, command["of"]) if mine else score
        gather(model, score, gradients=command["do"] == "learn")
    dist.destroy_process_group()


def _same_as_captain(task: dict[str, Any], models_dir: Path | None) -> tuple[CausalModel, Objective]:
    machine, captain = choose_machine(), Machine(**task["machine"])
    machine = captain if machine.device == captain.device else machine
    base = load_base(resolve_base(task["base"], models_dir=models_dir or Path(task["models_dir"])), machine)
    model = wrap(base, task["adapter"])
    return model, KINDS[task["method"]].from_json(LanguageModel(model), task["objective"])


def send(message: dict[str, Any]) -> None:
    """The captain's word to all."""
    import torch
    import torch.distributed as dist

    data = bytearray(json.dumps(message).encode())
    dist.broadcast(torch.tensor([len(data)]), 0)
    dist.broadcast(torch.frombuffer(data, dtype=torch.uint8), 0)


def receive() -> dict[str, Any]:
    """The captain's next word."""
    import torch
    import torch.distributed as dist

    length = torch.zeros(1, dtype=torch.long)
    dist.broadcast(length, 0)
    data = torch.zeros(int(length), dtype=torch.uint8)
    dist.broadcast(data, 0)
    message: dict[str, Any] = json.loads(data.numpy().tobytes())
    return message


def spread(model: CausalModel) -> None:
    """Give the captain's adapter weights to all."""
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


def gather(model: CausalModel, score: Score, *, gradients: bool) -> Score:
    """Sum scores, and gradients where asked, at the captain; followers start the next step without any."""
    import torch
    import torch.distributed as dist

    summed = torch.tensor([score.loss, score.right, score.tokens], dtype=torch.float64)
    dist.reduce(summed, 0)
    tensors = [tensor for _, tensor in trained_parameters(model)]
    if gradients:
        flat = torch.cat([_gradient(tensor) for tensor in tensors])
        dist.reduce(flat, 0)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.grad = part.view_as(tensor).to(tensor) if dist.get_rank() == 0 else None
    return Score(float(summed[0]), int(summed[1]), int(summed[2]))


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.zeros(tensor.numel()) if tensor.grad is None else tensor.grad.detach().float().cpu().flatten()
