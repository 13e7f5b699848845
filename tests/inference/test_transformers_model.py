"""Sequences of any architecture are computed in turns, each with its own cache and adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.errors import NotFoundError
from ftpipe.inference.batch_model import PREFILL_CHUNK_TOKENS, BatchModel
from ftpipe.inference.transformers_model import TransformersModel
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_base
from tests.inference.batch_models import make_adapter, run_alone, run_together
from tests.training.tiny_model import save_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_base(tmp_path_factory.mktemp("transformers-model") / "base")
    make_adapter(folder, folder.parent / "a", 0.3)
    make_adapter(folder, folder.parent / "b", -0.2)
    return folder


@pytest.fixture
def model(base: Path) -> BatchModel:
    return TransformersModel(load_base(base, DeviceConfig("cpu", "float32")))


def test_transformers_model_sequences_in_turns_are_as_alone(model: BatchModel, base: Path) -> None:
    """Of the base and of two adapters, with prompts of one and of several chunks."""
    prompts = [list(range(5, 5 + length)) for length in (3, PREFILL_CHUNK_TOKENS, 2 * PREFILL_CHUNK_TOKENS + 9)]
    requests = [(adapter, ids) for ids in prompts for adapter in (None, base.parent / "a", base.parent / "b")]
    together = run_together(model, requests, tokens=4)
    assert together == [run_alone(model, adapter, ids, tokens=4) for adapter, ids in requests]
    assert len({tuple(answer) for answer in together[-3:]}) == 3


def test_transformers_model_bounds_memory_of_open_sequences(model: BatchModel, base: Path) -> None:
    """One sequence always fits; a second one only if both do."""
    assert model.has_room(1 << 40)
    sequence = model.open_sequence(None, [1, 2], 1 << 30)
    assert not model.has_room(10)
    model.close_sequence(sequence)
    model.close_sequence(sequence)
    assert model.has_room(10)


def test_transformers_model_refuses_missing_adapter(model: BatchModel, base: Path) -> None:
    for action in (model.read_adapter, lambda folder: model.open_sequence(folder, [1], 2)):
        with pytest.raises(NotFoundError, match="nothing-here"):
            action(base.parent / "nothing-here")
