"""Rows scored under a base and its adapters: each loss is the one that training would have seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.errors import DatasetError
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_adapter, load_base, load_tokenizer
from ftpipe.training.batching import read_rows
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.lora import add_adapter, save_adapter, trainable_parameters
from ftpipe.training.loss import LossStats, evaluate_rows
from ftpipe.training.row_losses import ScoringRequest, by_line, score_models
from tests.training.tiny_model import chat, rows, write_rows

CPU = DeviceConfig("cpu", "float32")
PLAN = ResolvedHyperparameters(n_epochs=1, batch_size=4, learning_rate_multiplier=1, learning_rate=1e-3)


def adapter(base: Path, folder: Path, shift: float) -> Path:
    """A saved adapter that changes what the base says, in a job's folder with its plan."""
    import torch

    model = add_adapter(load_base(base, CPU), PLAN, seed=3)
    with torch.no_grad():
        for _, tensor in trainable_parameters(model):
            tensor.add_(shift)
    place = folder / "checkpoints" / "step-1"
    place.mkdir(parents=True)
    save_adapter(model, place, base_model=str(base))
    (folder / "plan.json").write_text(json.dumps({"device_config": vars(CPU), "hyperparameters": {"max_length": 120}}))
    return place


def alone(base: Path, place: Path | None, data: Path, limit: int) -> list[float]:
    """The losses of one model that is loaded by itself."""
    model = load_base(base, CPU)
    model = model if place is None else load_adapter(model, place)
    found = read_rows(data, ChatTokenizer(load_tokenizer(base)), limit=limit).examples
    return [one.mean_loss for one in evaluate_rows(LanguageModel(model), found)]


def test_every_model_is_scored_as_if_it_were_alone(base: Path, tmp_path: Path) -> None:
    """Whatever their order; long rows are cut where the job has cut them."""
    first, second = adapter(base, tmp_path / "a", 0.02), adapter(base, tmp_path / "b", -0.03)
    data = write_rows(tmp_path / "data.jsonl", [*rows(4), chat("a long one", "queue " * 20)])
    heard: list[tuple[int, int]] = []
    order = (None, first, None, second)
    found = score_models(ScoringRequest(data, str(base), order, tmp_path), lambda *done: heard.append(done))
    assert [row.line for row in found] == [1, 2, 3, 4, 5]
    for place, one in enumerate(order):
        expected = alone(base, one, data, limit=120)
        assert [row.losses[place] for row in found] == pytest.approx(expected, rel=2e-2)
    assert found[0].losses[0] == found[0].losses[2] != found[0].losses[1] != found[0].losses[3]
    assert (heard[0], heard[-1]) == ((0, 20), (20, 20))
    uncut = score_models(ScoringRequest(data, str(base), (None,), tmp_path))
    assert (uncut[4].tokens > found[4].tokens, uncut[0].tokens) == (True, found[0].tokens)


def test_sequences_of_one_row_count_together() -> None:
    """A conversation that became two sequences has one loss, over all its tokens."""
    scored = [[LossStats(6.0, 0, 2), LossStats(1.0, 0, 1), LossStats(3.0, 0, 1)]]
    first, second = by_line([1, 2, 2], scored)
    assert (first.losses, second.losses, second.tokens) == ((3.0,), (2.0,), 2)


def test_the_question_survives_the_command_line(tmp_path: Path) -> None:
    """The server says it, the process reads it."""
    asked = ScoringRequest(tmp_path / "a b.jsonl", "org/base", (None, tmp_path / "ä"), tmp_path)
    assert ScoringRequest.from_json(asked.as_json()) == asked


def test_a_row_that_teaches_nothing_is_named(base: Path, tmp_path: Path) -> None:
    """As in training."""
    data = write_rows(tmp_path / "data.jsonl", [*rows(1), {"messages": [{"role": "user", "content": "hi"}]}])
    with pytest.raises(DatasetError, match="line 2"):
        score_models(ScoringRequest(data, str(base), (None,), tmp_path))
