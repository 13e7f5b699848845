"""A job on several processes trains the same model as on one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_base
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.distributed import shard
from ftpipe.training.dpo import DPOObjective, read_pairs, with_reference_logprobs
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import JobDirectory
from ftpipe.training.lora import add_adapter, trainable_parameters
from ftpipe.training.loss import LossStats
from ftpipe.training.run import run_job
from tests.training.test_dpo import PAIRS
from tests.training.tiny_model import events, make_job, result, with_workers, write_rows


def losses(folder: Path) -> list[float]:
    """Training and validation losses of all steps."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in ("train_loss", "valid_loss") if row[name]]


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_distributed_matches_single_process(base: Path, tmp_path: Path) -> None:
    """Without dropout losses and tokens of every step agree; no step is reported twice, no file left over."""
    single, distributed = (
        make_job(tmp_path / name, base, n_epochs=1, batch_size=5, lora_dropout=0.0)
        for name in ("single", "distributed")
    )
    with_workers(distributed, workers=2)
    assert run_job(JobDirectory(single)) == "succeeded"
    assert run_job(JobDirectory(distributed)) == "succeeded"
    assert losses(distributed) == pytest.approx(losses(single), abs=2e-4)
    assert result(distributed)["trained_tokens"] == result(single)["trained_tokens"]
    assert [event["data"]["step"] for event in events(distributed) if event["type"] == "metrics"] == [1, 2, 3]
    assert not list(distributed.rglob(".*"))


def test_dpo_sharded_gradients_sum(base: Path, tmp_path: Path) -> None:
    """Gradients and statistics; the worker's copy of the pairs is sent as JSON."""
    import torch

    hyperparameters = ResolvedHyperparameters(
        n_epochs=1, batch_size=5, learning_rate_multiplier=1, learning_rate=1e-3, lora_dropout=0.0
    )
    lm = LanguageModel(add_adapter(load_base(base, DeviceConfig("cpu", "float32")), hyperparameters, seed=1))
    read, _ = read_pairs(write_rows(tmp_path / "d.jsonl", PAIRS), ChatTokenizer.load(base), limit=400)
    leader = DPOObjective(lm, with_reference_logprobs(lm, read), 0.3)
    worker = DPOObjective.from_json(lm, leader.as_json())
    batch = [4, 0, 3, 1, 2]

    def accumulate(parts: list[tuple[DPOObjective, list[int]]]) -> tuple[LossStats, torch.Tensor]:
        lm.model.zero_grad()
        stats = sum((objective.backward(rows, batch) for objective, rows in parts), LossStats())
        return stats, torch.cat(
            [tensor.grad.flatten() for _, tensor in trainable_parameters(lm.model) if tensor.grad is not None]
        )

    expected, gradient = accumulate([(leader, batch)])
    summed, gathered = accumulate([(leader, shard(batch, 0, 2)), (worker, shard(batch, 1, 2))])
    assert (summed.correct, summed.tokens) == (expected.correct, expected.tokens)
    assert summed.loss == pytest.approx(expected.loss, rel=1e-5)
    assert torch.allclose(gathered, gradient, atol=1e-6)
