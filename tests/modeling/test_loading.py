"""How a base model is loaded: quantized if the package is here, with faster kernels where there is a GPU for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from ftpipe.errors import MissingExtraError
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, Example
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_base, use_fused_kernels
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.job_directory import JobDirectory
from ftpipe.training.lora import add_adapter, trainable_parameters
from ftpipe.training.loss import SupervisedObjective, evaluate_rows
from ftpipe.training.run import run_job
from tests.training.tiny_model import events, make_job, save_base

FIND_SPEC = importlib.util.find_spec


def hide(monkeypatch: pytest.MonkeyPatch, hidden: str, *, is_here: bool = False) -> None:
    """Let a package look as if it was not installed, or as if it was."""

    def find_spec(name: str, package: str | None = None) -> Any:
        return (object() if is_here else None) if name == hidden else FIND_SPEC(name, package)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)


def test_load_base_quantized_without_the_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "bitsandbytes")
    with pytest.raises(MissingExtraError, match="4bit weights need the quantization extra"):
        load_base(tmp_path, DeviceConfig("cpu", "bfloat16", "4bit"))


def test_use_fused_kernels_only_on_an_nvidia_gpu_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for transformers' function; the kernels themselves need a GPU."""
    calls: list[dict[str, bool]] = []
    monkeypatch.setattr(
        "transformers.integrations.liger.apply_liger_kernel", lambda _model, config: calls.append(config)
    )
    hide(monkeypatch, "liger_kernel")
    assert not use_fused_kernels(object(), DeviceConfig("cuda", "bfloat16"))
    hide(monkeypatch, "liger_kernel", is_here=True)
    assert not use_fused_kernels(object(), DeviceConfig("cpu", "bfloat16"))
    assert calls == []
    assert use_fused_kernels(object(), DeviceConfig("cuda", "bfloat16"))
    assert calls == [{"cross_entropy": False, "fused_linear_cross_entropy": False}]


@pytest.mark.slow
@pytest.mark.needs("bitsandbytes")
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_job_trains_on_a_quantized_base(tmp_path: Path, quantization: str) -> None:
    """With checkpointing; the adapter learns, and the events say what is trained."""
    base = save_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    settings: dict[str, Any] = {"quantization": quantization, "gradient_checkpointing": True}
    settings |= {"learning_rate": 0.01, "n_epochs": 4}
    folder = make_job(tmp_path / "job", base, valid=False, **settings)
    assert run_job(JobDirectory(folder)) == "succeeded"
    plan = JobDirectory(folder).read_plan()
    assert plan is not None
    assert (plan.device_config.quantization, plan.hyperparameters.quantization) == (quantization, quantization)
    reported = events(folder)
    assert any(f"with {quantization} weights" in event["message"] for event in reported)
    losses = [event["data"]["train_loss"] for event in reported if event["type"] == "metrics"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.needs("bitsandbytes")
def test_gradients_through_4bit_weights_are_those_of_the_same_weights_in_float32(tmp_path: Path) -> None:
    """Also after an evaluation, in which bitsandbytes would pack the weights for the processor, without a gradient."""
    import bitsandbytes

    folder = save_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    example = Example(tuple(range(30)), (*[IGNORE_INDEX] * 20, *range(20, 30)))
    settings = ResolvedHyperparameters(1, 1, 1.0, 1e-3, lora_dropout=0.0)
    quantized = load_base(folder, DeviceConfig("cpu", "float32", "4bit"))
    plain = load_base(folder, DeviceConfig("cpu", "float32"))
    for name, module in quantized.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state = module.weight.quant_state
            weights = bitsandbytes.functional.dequantize_4bit(module.weight.data, state)
            plain.get_submodule(name).weight.data.copy_(weights)
    gradients = []
    for base in (quantized, plain):
        model = add_adapter(base, settings, seed=1)
        lm = LanguageModel(model)
        evaluate_rows(lm, [example])
        loss, _ = SupervisedObjective([example]).loss(lm, [example])
        (loss / 10).backward()
        gradients.append({name: tensor.grad for name, tensor in trainable_parameters(model)})
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-4, atol=1e-6)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in gradients[1].values())
