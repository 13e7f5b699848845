"""One job on several processes learns what it learns on one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ftpipe.server.masking import ChatMask
from ftpipe.server.trainers.dpo import Preference, read_pairs, with_reference
from ftpipe.server.trainers.job import run_job
from ftpipe.server.trainers.jobfolder import JobFolder
from ftpipe.server.trainers.language_model import LanguageModel
from ftpipe.server.trainers.lora import add_adapter, load_base, load_tokenizer, trained_parameters
from ftpipe.server.trainers.losses import Score
from ftpipe.server.trainers.machine import Machine
from ftpipe.server.trainers.plan import Plan
from ftpipe.server.trainers.team import share
from tests.server.trainers.test_dpo import PAIRS
from tests.server.trainers.tiny import events, make_job, result, with_crew, write_rows


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
    with_crew(shared, workers=2)
    assert run_job(JobFolder(alone)) == "succeeded"
    assert run_job(JobFolder(shared)) == "succeeded"
    assert losses(shared) == pytest.approx(losses(alone), abs=2e-4)
    assert result(shared)["trained_tokens"] == result(alone)["trained_tokens"]
    assert [event["data"]["step"] for event in events(shared) if event["type"] == "metrics"] == [1, 2, 3]
    assert not list(shared.rglob(".new-*"))


def test_shares_of_a_batch_of_pairs_add_up_to_the_whole(base: Path, tmp_path: Path) -> None:
    """Gradient and score; a follower's copy of the pairs comes through JSON."""
    import torch

    plan = Plan(n_epochs=1, batch_size=5, learning_rate_multiplier=1, learning_rate=1e-3, lora_dropout=0.0)
    lm = LanguageModel(add_adapter(load_base(base, Machine("cpu", "float32")), plan, seed=1))
    read = read_pairs(write_rows(tmp_path / "d.jsonl", PAIRS), ChatMask(load_tokenizer(base)), limit=400)
    captain = Preference(lm, with_reference(lm, read), 0.3)
    follower = Preference.from_json(lm, captain.as_json())
    batch = [4, 0, 3, 1, 2]

    def learnt(parts: list[tuple[Preference, list[int]]]) -> tuple[Score, torch.Tensor]:
        lm.model.zero_grad()
        score = sum((objective.learn(rows, batch) for objective, rows in parts), Score())
        return score, torch.cat(
            [tensor.grad.flatten() for _, tensor in trained_parameters(lm.model) if tensor.grad is not None]
        )

    whole, gradient = learnt([(captain, batch)])
    dealt, gathered = learnt([(captain, share(batch, 0, 2)), (follower, share(batch, 1, 2))])
    assert (dealt.right, dealt.tokens) == (whole.right, whole.tokens)
    assert dealt.loss == pytest.approx(whole.loss, rel=1e-5)
    assert torch.allclose(gathered, gradient, atol=1e-6)
