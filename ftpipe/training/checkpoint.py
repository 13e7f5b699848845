"""Save and load what a killed or paused run needs to resume exactly, in one safetensors file.

That is the adapter's weights, the moments of the optimizer, the step and the metrics so far. The order of rows and
dropout depend on seed and step alone, so the state of random generators is not needed. No pickle. The tensors are
whole, also those of a run that shards them, so a run can resume with another number of processes or another strategy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ftpipe.modeling.types import CausalModel, Optimizer
from ftpipe.records.job import TrainingMetrics
from ftpipe.training.lora import sharded_like, trainable_parameters, whole_tensor


@dataclass
class TrainerState:
    """How far a run has come.

    Attributes:
        step: Optimizer steps taken.
        trained_tokens: Tokens of all rows so far, counted in each epoch.
        metrics: One row per step.
    """

    step: int
    trained_tokens: int
    metrics: list[TrainingMetrics]


def dump_state(model: CausalModel, optimizer: Optimizer, state: TrainerState) -> bytes:
    """The content of a state file; every process that has a part of the tensors must call this."""
    from safetensors.torch import save

    tensors = {}
    for name, parameter in trainable_parameters(model):
        tensors[f"weight/{name}"] = whole_tensor(parameter)
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = whole_tensor(value)
    rows = [row.model_dump(exclude_none=True) for row in state.metrics]
    metadata = {"step": state.step, "trained_tokens": state.trained_tokens, "metrics": rows}
    content: bytes = save(tensors, metadata={"ftpipe": json.dumps(metadata, allow_nan=False)})
    return content


def load_state(path: Path, model: CausalModel, optimizer: Optimizer) -> TrainerState | None:
    """Load a saved state into ``model`` and ``optimizer``; ``None`` if there is none."""
    import torch
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file, torch.no_grad():
        metadata = json.loads(file.metadata()["ftpipe"])
        names = set(file.keys())
        for name, parameter in trainable_parameters(model):
            parameter.copy_(sharded_like(parameter, file.get_tensor(f"weight/{name}")))
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key}/{name}" in names:
                    value = file.get_tensor(f"{key}/{name}")
                    optimizer.state[parameter][key] = value if key == "step" else sharded_like(parameter, value)
    metrics = [TrainingMetrics(**row) for row in metadata["metrics"]]
    return TrainerState(int(metadata["step"]), int(metadata["trained_tokens"]), metrics)
