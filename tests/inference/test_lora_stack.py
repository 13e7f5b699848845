"""Adapters side by side add bit by bit what each adds alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ftpipe.inference.batch_model import MAX_ADAPTERS
from ftpipe.inference.lora_stack import MAX_SHARED_STACKS, MIN_ROWS_ALONE, LoraAdapters
from ftpipe.inference.lora_weights import FUSED_LAYERS, LayerKey, UnsupportedAdapterError, read_lora

OUTPUTS = {"qkv": (64, 32, 32), "output": (64,), "gate_up": (96, 96), "down": (64,)}
INPUTS = {"qkv": 64, "output": 64, "gate_up": 64, "down": 96}
KEYS: list[LayerKey] = [(layer, name) for layer in range(2) for name in FUSED_LAYERS]


def write_adapter(folder: Path, seed: int, rank: int, modules: tuple[str, ...], value: float | None = None) -> Path:
    """An adapter in peft's files, with random weights, or with one value everywhere."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    tensors: dict[str, Any] = {}
    for layer in range(2):
        for name, parts in FUSED_LAYERS.items():
            for part, outputs in zip(parts, OUTPUTS[name], strict=True):
                if part.split(".")[1] in modules:
                    prefix = f"base_model.model.model.layers.{layer}.{part}"
                    tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, INPUTS[name])
                    tensors[f"{prefix}.lora_B.weight"] = torch.randn(outputs, rank)
    if value is not None:
        tensors = {name: torch.full_like(tensor, value) for name, tensor in tensors.items()}
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "base_model_name_or_path": "x"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of different ranks for different layers."""
    root = tmp_path_factory.mktemp("adapters")
    kinds = [
        (3, ("q_proj", "v_proj")),
        (16, ("q_proj", "v_proj")),
        (5, ("down_proj",)),
        (8, ("k_proj", "o_proj", "up_proj")),
    ]
    return [write_adapter(root / str(number), number, *kind) for number, kind in enumerate(kinds)]


def make_adapters(dtype: str) -> LoraAdapters:
    import torch

    return LoraAdapters(OUTPUTS, 2, getattr(torch, dtype), torch.device("cpu"))


@pytest.mark.parametrize(("dtype", "output"), [("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32",) * 2])
@pytest.mark.parametrize("most_rows", [1, MIN_ROWS_ALONE + 3])
def test_lora_rows_do_not_depend_on_others(folders: list[Path], dtype: str, output: str, most_rows: int) -> None:
    """Of up to four adapters and none, in one product or one after the other; rows are as if each was alone."""
    import torch

    numbers = random.Random(1)
    together, alone = make_adapters(dtype), make_adapters(dtype)
    for _ in range(4):
        chosen = sorted({numbers.choice([None, *folders]) for _ in range(5)}, key=str)
        counts = [numbers.randint(1, most_rows) for _ in chosen]
        total = sum(counts) + numbers.randint(0, 2)
        rows = together.rows(chosen, counts, total)
        for key in KEYS:
            inputs = torch.randn(total, INPUTS[key[1]]).to(getattr(torch, dtype))
            base = torch.randn(total, sum(OUTPUTS[key[1]])).to(getattr(torch, output))
            result = rows.add_to(base.clone(), inputs, key)
            start = 0
            for adapter, count in zip(chosen, counts, strict=True):
                for row in {start, start + count // 2, start + count - 1}:
                    one = alone.rows([adapter], [1], 1)
                    expected = one.add_to(base[row : row + 1].clone(), inputs[row : row + 1], key)
                    assert torch.equal(result[row : row + 1], expected), (key, adapter, counts)
                start += count


def test_lora_adds_the_product_of_the_matrices(folders: list[Path]) -> None:
    import torch

    adapters = make_adapters("float32")
    pair = read_lora(folders[0], OUTPUTS, 2)[1, "qkv"]
    inputs, base = torch.randn(3, 64), torch.randn(3, 128)
    result = adapters.rows([folders[0], folders[1]], [2, 1], 3).add_to(base.clone(), inputs, (1, "qkv"))
    assert torch.allclose(result[:2], base[:2] + inputs[:2] @ pair.down.T @ pair.up.T, atol=1e-3)


def test_lora_with_weights_that_are_not_numbers_is_left_to_peft(folders: list[Path], tmp_path: Path) -> None:
    """In a product with others it would spoil their answers."""
    broken = write_adapter(tmp_path / "broken", 1, 4, ("q_proj",), float("nan"))
    with pytest.raises(UnsupportedAdapterError, match="not numbers"):
        make_adapters("bfloat16").load(broken)


def test_lora_memory_is_bounded(folders: list[Path], tmp_path: Path) -> None:
    """Adapters that are needed are kept; a stack serves those that remain of its adapters."""
    adapters = make_adapters("bfloat16")
    others = [write_adapter(tmp_path / str(number), number, 4, ("q_proj",)) for number in range(MAX_ADAPTERS + 2)]
    adapters.rows(others, [1] * len(others), len(others))
    assert all(other in adapters for other in others)
    for number in range(4):
        adapters.rows(folders[: number + 1], [1] * (number + 1), number + 1)
    assert sum(other in adapters for other in (*others, *folders)) == MAX_ADAPTERS
    assert len(adapters._shared) == MAX_SHARED_STACKS
    stacks = list(adapters._shared.values())
    (part,) = adapters.rows(folders[1:4], [1] * 3, 3).parts
    assert part[0] in stacks
