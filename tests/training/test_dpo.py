"""Preference tuning on a tiny base."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import DatasetError
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_base
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.dpo import DPOObjective, read_pairs
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import JobDirectory
from ftpipe.training.lora import add_adapter, trainable_parameters
from ftpipe.training.parallel import ParallelModel
from ftpipe.training.run import run_job
from tests.training.tiny_model import chat, events, make_job, result, tiny_tokenizer, write_rows


def pair(question: str, good: str, bad: str) -> dict[str, Any]:
    """A preference record."""
    return {
        "input": chat(question),
        "preferred_output": [{"role": "assistant", "content": good}],
        "non_preferred_output": [{"role": "assistant", "content": bad}],
    }


PAIRS = [pair(f"question {i}", "yes" * (1 + i % 2), "no") for i in range(6)]


def prepared(base: Path, folder: Path) -> tuple[ParallelModel, DPOObjective]:
    """A model that differs from the reference model."""
    import torch

    plan = ResolvedHyperparameters(1, 4, 1.0, 1e-3, lora_dropout=0.0, beta=0.3)
    model = add_adapter(load_base(base, DeviceConfig("cpu", "float32")), plan, seed=1)
    parallel = ParallelModel(LanguageModel(model))
    read, _ = read_pairs(write_rows(folder / "d.jsonl", PAIRS), ChatTokenizer.load(base), limit=400)
    objective = DPOObjective(read, beta=0.3)
    objective.prepare(parallel.evaluate_rows)
    with torch.no_grad():
        for _, tensor in trainable_parameters(model):
            tensor.add_(0.02)
    return parallel, objective


def test_dpo_gradient_equals_published_loss(base: Path, tmp_path: Path) -> None:
    """Against the formula written down plainly and differentiated by torch."""
    import torch
    from torch.nn.functional import cross_entropy, logsigmoid

    parallel, objective = prepared(base, tmp_path)
    model = parallel.lm.model
    scored = parallel.backward(objective, [0, 1, 2])
    gradients = {name: tensor.grad.clone() for name, tensor in trainable_parameters(model)}
    model.zero_grad()

    def logprob(example: Any) -> torch.Tensor:
        logits = model(input_ids=torch.tensor([list(example.ids)])).logits[0, :-1]
        return -cross_entropy(logits, torch.tensor(list(example.labels))[1:], reduction="sum")

    losses = []
    for row in objective.pairs[:3]:
        moved = (logprob(row.chosen) - row.chosen_reference) - (logprob(row.rejected) - row.rejected_reference)
        losses.append(-logsigmoid(0.3 * moved))
    loss = torch.stack(losses).mean()
    loss.backward()
    assert scored.mean_loss == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, tensor in trainable_parameters(model):
        torch.testing.assert_close(gradients[name], tensor.grad, rtol=1e-3, atol=1e-6)


def test_dpo_loss_starts_at_log_two(base: Path, tmp_path: Path) -> None:
    """Before training the model is its own reference."""
    folder = make_job(tmp_path / "job", base, data=write_rows(tmp_path / "d.jsonl", PAIRS), valid=False, method="dpo")
    run_job(JobDirectory(folder))
    first = next(event for event in events(folder) if event["type"] == "metrics")
    assert first["data"]["train_loss"] == pytest.approx(math.log(2), abs=0.02)


def test_dpo_job_learns_preference_and_reports_beta(base: Path, tmp_path: Path) -> None:
    """In the end the margin of nearly every pair is positive, in the validation file too."""
    data = write_rows(tmp_path / "d.jsonl", PAIRS)
    folder = make_job(
        tmp_path / "job", base, data=data, valid=False, method="dpo", n_epochs=12, learning_rate=0.02, beta=0.5
    )
    assert run_job(JobDirectory(folder)) == "succeeded"
    last = [event["data"] for event in events(folder) if event["type"] == "metrics"][-1]
    assert last["train_loss"] < 0.4
    assert last["train_mean_token_accuracy"] == 1.0
    assert '"beta": 0.5' in (folder / "progress.json").read_text(encoding="utf-8")


def test_dpo_job_refuses_chat_file(base: Path, tmp_path: Path) -> None:
    """The job fails and names the lines."""
    folder = make_job(tmp_path / "job", base, method="dpo", valid=False)
    assert run_job(JobDirectory(folder)) == "failed"
    assert "line 1: it is not a preference row" in result(folder)["error"]["message"]


def test_read_pairs_refuses_long_pair(tmp_path: Path) -> None:
    """Half an answer cannot be preferred."""
    data = write_rows(tmp_path / "d.jsonl", [pair("q", "long " * 90, "no")])
    with pytest.raises(DatasetError, match="it has 499 tokens, and 100 are trained"):
        read_pairs(data, ChatTokenizer.of(tiny_tokenizer()), limit=100)


def test_run_job_starts_from_initial_adapter(base: Path, tmp_path: Path) -> None:
    """DPO of a tuned model starts from its adapter."""
    import json

    first = make_job(tmp_path / "first", base, valid=False, n_epochs=1)
    run_job(JobDirectory(first))
    second = make_job(
        tmp_path / "second", base, data=write_rows(tmp_path / "d.jsonl", PAIRS), valid=False, method="dpo"
    )
    spec = json.loads((second / "spec.json").read_text(encoding="utf-8"))
    spec["initial_adapter"] = str(first / "checkpoints/step-3")
    (second / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    run_job(JobDirectory(second))
    assert result(second)["error"] is None
