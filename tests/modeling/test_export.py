"""A tuned model written for other programs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpipe.errors import NotFoundError, UsageError
from ftpipe.modeling.export import export_model
from tests.inference.test_engine import make_adapter
from tests.training.tiny_model import save_base


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and an adapter."""
    folder = tmp_path_factory.mktemp("export")
    make_adapter(save_base(folder / "base"), folder / "adapter", 0.3)
    return folder


def export(model_dir: Path, output: Path, *, merged: bool) -> Path:
    """Export the adapter of ``model_dir``."""
    return export_model(
        base=str(model_dir / "base"), adapter=model_dir / "adapter", output=output, merged=merged, models_dir=model_dir
    )


def test_export_merged_equals_base_with_adapter(model_dir: Path, tmp_path: Path) -> None:
    """The folder loads in transformers as it is; logits agree up to the rounding to bf16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ftpipe.modeling.device import DeviceConfig
    from ftpipe.modeling.loading import load_adapter, load_base

    output = export(model_dir, tmp_path / "merged", merged=True)
    merged = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    tuned = load_adapter(load_base(model_dir / "base", DeviceConfig("cpu", "float32")), model_dir / "adapter").eval()
    ids = AutoTokenizer.from_pretrained(output)("where is it?", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, tuned(input_ids=ids).logits, rtol=0.1, atol=0.3)


def test_export_adapter_names_its_base(model_dir: Path, tmp_path: Path) -> None:
    """Only safetensors and JSON."""
    output = export(model_dir, tmp_path / "adapter", merged=False)
    assert sorted(file.name for file in output.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(model_dir / "base")


def test_export_does_not_overwrite(model_dir: Path, tmp_path: Path) -> None:
    """The folder must be new or empty."""
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        export(model_dir, tmp_path, merged=False)


def test_export_refuses_incomplete_adapter(model_dir: Path, tmp_path: Path) -> None:
    """The message names what is missing."""
    with pytest.raises(NotFoundError, match=r"adapter_model\.safetensors"):
        export_model(base="x", adapter=tmp_path, output=tmp_path / "out", merged=False, models_dir=model_dir)


def test_export_leaves_folders_beside_the_output_alone(model_dir: Path, tmp_path: Path) -> None:
    """Not even one with the name that scratch folders once had; the exported folder is as readable as any other."""
    other = tmp_path / ".new-out"
    other.mkdir()
    (other / "thesis.tex").write_text("mine", encoding="utf-8")
    output = export(model_dir, tmp_path / "out", merged=False)
    assert (other / "thesis.tex").read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new-out", "out"]
    assert output.stat().st_mode & 0o777 == other.stat().st_mode & 0o777


def test_export_in_parallel_does_not_disturb_each_other(model_dir: Path, tmp_path: Path) -> None:
    """Eight exports to one folder: one gets it, the others are refused; nothing is left half-written."""

    def attempt(_: int) -> bool:
        try:
            export(model_dir, tmp_path / "out", merged=False)
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_export_refuses_a_link_as_output(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "target")
    with pytest.raises(UsageError, match="exists already"):
        export(model_dir, tmp_path / "out", merged=False)
    assert list((tmp_path / "target").iterdir()) == []
