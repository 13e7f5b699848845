"""Losses of rows under a base model and its adapters, which are those of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftpipe.errors import DatasetError
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_adapter, load_base
from ftpipe.training.batching import read_rows
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import JobDirectory, TrainingPlan
from ftpipe.training.lora import add_adapter, save_adapter, trainable_parameters
from ftpipe.training.loss import LossStats, evaluate_rows
from ftpipe.training.row_losses import ScoringRequest, by_line, score_models
from tests.training.tiny_model import chat, rows, write_rows

CPU = DeviceConfig("cpu", "float32")
HYPERPARAMETERS = ResolvedHyperparameters(
    n_epochs=1, batch_size=4, learning_rate_multiplier=1, learning_rate=1e-3, max_length=120
)


def adapter(base: Path, folder: Path, shift: float, *, skip_bad_rows: bool = False) -> Path:
    """A saved adapter that changes the base model, in a job directory with its plan."""
    import torch

    model = add_adapter(load_base(base, CPU), HYPERPARAMETERS, seed=3)
    with torch.no_grad():
        for _, tensor in trainable_parameters(model):
            tensor.add_(shift)
    checkpoint = JobDirectory(folder).checkpoint_dir(1)
    checkpoint.mkdir(parents=True)
    save_adapter(model, checkpoint, base_model=str(base))
    JobDirectory(folder).write_plan(TrainingPlan(CPU, replace(HYPERPARAMETERS, skip_bad_rows=skip_bad_rows)))
    return checkpoint


def alone(base: Path, checkpoint: Path | None, data: Path, limit: int) -> list[float]:
    """The losses of one model that is loaded by itself."""
    model = load_base(base, CPU)
    model = model if checkpoint is None else load_adapter(model, checkpoint)
    examples = read_rows(data, ChatTokenizer.load(base), limit=limit).examples
    return [stats.mean_loss for stats in evaluate_rows(LanguageModel(model), examples)]


def test_score_models_equals_each_model_alone(base: Path, tmp_path: Path) -> None:
    """In any order; long rows are truncated as in the job."""
    first, second = adapter(base, tmp_path / "a", 0.02), adapter(base, tmp_path / "b", -0.03)
    data = write_rows(tmp_path / "data.jsonl", [*rows(4), chat("a long one", "queue", "more " * 20)])
    progress: list[tuple[int, int]] = []
    order = (None, first, None, second)
    scored = score_models(ScoringRequest(data, str(base), order, tmp_path), lambda *done: progress.append(done))
    assert [row.line for row in scored] == [1, 2, 3, 4, 5]
    for index, model in enumerate(order):
        expected = alone(base, model, data, limit=120)
        assert [row.losses[index] for row in scored] == pytest.approx(expected, rel=2e-2)
    assert scored[0].losses[0] == scored[0].losses[2] != scored[0].losses[1] != scored[0].losses[3]
    assert (progress[0], progress[-1]) == ((0, 20), (20, 20))


def test_score_models_leaves_out_the_rows_that_the_job_left_out(base: Path, tmp_path: Path) -> None:
    """A row whose answer is beyond the limit of the job has no loss; the base alone has another limit."""
    data = write_rows(tmp_path / "data.jsonl", [*rows(2), chat("a long one", "queue " * 20)])
    with pytest.raises(DatasetError, match="line 3: its answer ends after"):
        score_models(ScoringRequest(data, str(base), (adapter(base, tmp_path / "a", 0.02),), tmp_path))
    skipping = adapter(base, tmp_path / "b", 0.02, skip_bad_rows=True)
    scored = score_models(ScoringRequest(data, str(base), (skipping, None), tmp_path))
    assert [row.line for row in scored] == [1, 2]
    assert [row.line for row in score_models(ScoringRequest(data, str(base), (None,), tmp_path))] == [1, 2, 3]


def test_by_line_joins_split_conversations() -> None:
    """A conversation that became two sequences has one loss, over all its tokens."""
    columns = [[LossStats(6.0, 0, 2), LossStats(1.0, 0, 1), LossStats(3.0, 0, 1)]]
    first, second = by_line([1, 2, 2], columns)
    assert (first.losses, second.losses, second.tokens) == ((3.0,), (2.0,), 2)


def test_scoring_request_json_round_trip(tmp_path: Path) -> None:
    request = ScoringRequest(tmp_path / "a b.jsonl", "org/base", (None, tmp_path / "ä"), tmp_path)
    assert ScoringRequest.from_json(request.as_json()) == request


def test_score_models_names_row_without_labels(base: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", [*rows(1), {"messages": [{"role": "user", "content": "hi"}]}])
    with pytest.raises(DatasetError, match="line 2"):
        score_models(ScoringRequest(data, str(base), (None,), tmp_path))
