"""A tiny base model with an adapter, and what the trainer's model answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.export import check
from ftpipe.modeling.export.check import Progress, Reference, reference_answers
from ftpipe.modeling.export.export_model import ExportRequest, ExportResult, export_model
from ftpipe.modeling.export.model_card import ModelFacts
from ftpipe.modeling.loading import load_adapter, load_base
from tests.inference.batch_models import make_adapter
from tests.training.tiny_model import save_base

FACTS = ModelFacts("ft:tiny:local:bot:abcdefgh", "supervised", "0" * 64, rows=12, hyperparameters={"lora_r": 16})
PROMPTS = 4
"""Instead of 20, to be fast."""


@contextmanager
def no_progress(_label: str, _unit: str) -> Iterator[Progress]:
    yield lambda _done, _total: None


@dataclass(frozen=True)
class TinyModel:
    """Folders of a base model and of an adapter."""

    base_dir: Path
    adapter: Path

    def export(self, output: Path, **changes: Any) -> ExportResult:
        """Export it; the adapter alone, unless changed."""
        request = ExportRequest(
            base=str(self.base_dir),
            adapter=self.adapter,
            output=output,
            format="adapter",
            models_dir=self.base_dir.parent / "models",
            facts=FACTS,
        )
        return export_model(replace(request, **changes), no_progress)

    def reference(self, dtype: str) -> Reference:
        """What it answers."""
        model = load_adapter(load_base(self.base_dir, DeviceConfig("cpu", "float32")), self.adapter).eval()
        return reference_answers(model, self.base_dir, [], dtype=dtype, on_progress=lambda _done, _total: None)


@pytest.fixture(autouse=True, scope="package")
def few_prompts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "MAX_PROMPTS", PROMPTS)
        yield


@pytest.fixture(scope="package")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A base model in bfloat16, as most are."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("export")
    base_dir = save_base(folder / "base")
    AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.bfloat16).save_pretrained(base_dir)
    return TinyModel(base_dir, make_adapter(base_dir, folder / "adapter", 0.03))
