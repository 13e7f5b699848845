"""One job on several processes learns what it learns on one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_base, load_tokenizer
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
def test_two_processes_learn_what_one_learns(base: Path, tmp_path: Path) -> None:
    """Without dropout the losses of every step agree, and so do tokens; no step is told twice, nothing is left over."""
    alone, shared = (
        make_job(tmp_path / name, base, n_epochs=1, batch_size=5, lora_dropout=0.0) for name in ("alone", "shared")
    )
    with_workers(shared, workers=2)
    assert run_job(JobDirectory(alone)) == "succeeded"
    assert run_job(JobDirectory(shared)) == "succeeded"
    assert losses(shared) == pytest.approx(losses(alone), abs=2e-4)
    assert result(shared)["trained_tokens"] == result(alone)["trained_tokens"]
    assert [event["data"]["step"] for event in events(shared) if event["type"] == "metrics"] == [1, 2, 3]
    assert not list(shared.rglob(".*"))


def test_shares_of_a_batch_of_pairs_add_up_to_the_whole(base: Path, tmp_path: Path) -> None:
    """Gradient and score; a follower's copy of the pairs comes through JSON."""
    import torch

    plan = ResolvedHyperparameters(
        n_epochs=1, batch_size=5, learning_rate_multiplier=1, learning_rate=1e-3, lora_dropout=0.0
    )
    lm = LanguageModel(add_adapter(load_base(base, DeviceConfig("cpu", "float32")), plan, seed=1))
    read = read_pairs(write_rows(tmp_path / "d.jsonl", PAIRS), ChatTokenizer(load_tokenizer(base)), limit=400)
    leader = DPOObjective(lm, with_reference_logprobs(lm, read), 0.3)
    follower = DPOObjective.from_json(lm, leader.as_json())
    batch = [4, 0, 3, 1, 2]

    def learnt(parts: list[tuple[DPOObjective, list[int]]]) -> tuple[LossStats, torch.Tensor]:
        lm.model.zero_grad()
        score = sum((objective.backward(rows, batch) for objective, rows in parts), LossStats())
        return score, torch.cat(
            [tensor.grad.flatten() for _, tensor in trainable_parameters(lm.model) if tensor.grad is not None]
        )

    whole, gradient = learnt([(leader, batch)])
    dealt, gathered = learnt([(leader, shard(batch, 0, 2)), (follower, shard(batch, 1, 2))])
    assert (dealt.correct, dealt.tokens) == (whole.correct, whole.tokens)
    assert dealt.loss == pytest.approx(whole.loss, rel=1e-5)
    assert torch.allclose(gathered, gradient, atol=1e-6)
