"""Faults of exports are found, and only faults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.export.check import CheckResult, Prompt, Reference, check_export, select_prompts
from ftpipe.modeling.export.loaders import load_adapter_export, load_merged_export
from tests.modeling.export.conftest import PROMPTS, TinyModel


@pytest.fixture(scope="module")
def float_reference(tiny: TinyModel) -> Reference:
    return tiny.reference("float32")


@pytest.fixture(scope="module")
def rounded_reference(tiny: TinyModel) -> Reference:
    return tiny.reference("bfloat16")


@pytest.fixture(scope="module")
def adapter_export(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.export(tmp_path_factory.mktemp("good") / "adapter").folder


@pytest.fixture(scope="module")
def merged_export(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.export(tmp_path_factory.mktemp("good") / "merged", format="merged").folder


def check(reference: Reference, exported: Any) -> CheckResult:
    return check_export(reference, exported, lambda _done, _total: None)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def wrong_template(folder: Path) -> None:
    """A system message that nobody asked for, as some converters add."""
    path = folder / "chat_template.jinja"
    path.write_text("<|im_start|>system\nBe nice.<|im_end|>\n" + path.read_text())


def missing_stop(folder: Path) -> None:
    change_json(folder / "generation_config.json", eos_token_id=0)
    change_json(folder / "tokenizer_config.json", eos_token="<|im_start|>")


def wrong_alpha(folder: Path) -> None:
    """Twice the scale."""
    change_json(folder / "adapter_config.json", lora_alpha=64)


def round_weights(folder: Path, bits: int) -> None:
    """Absolute maximum quantization in blocks of 32, back in bfloat16."""
    tensors = load_file(folder / "model.safetensors")
    levels = 2 ** (bits - 1) - 1
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            blocks = tensor.float().reshape(-1, 32)
            scale = blocks.abs().amax(-1, keepdim=True) / levels
            tensors[name] = ((blocks / scale).round() * scale).reshape(tensor.shape).to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_weights(folder: Path) -> None:
    """One value that is not a number."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def drop_adapter(folder: Path, base_dir: Path) -> None:
    shutil.copyfile(base_dir / "model.safetensors", folder / "model.safetensors")


def test_check_passes_the_adapter_as_it_is(float_reference: Reference, adapter_export: Path, tiny: TinyModel) -> None:
    """The same computation: no difference at all."""
    result = check(float_reference, load_adapter_export(adapter_export, tiny.base_dir))
    assert (result.problems, result.identical_answers, result.prompts) == ((), PROMPTS, PROMPTS)
    assert result.max_logprob_difference < 1e-3
    assert result.limit == pytest.approx(0.01)


def test_check_passes_weights_that_are_rounded_once(rounded_reference: Reference, merged_export: Path) -> None:
    """The difference is that of rounding, which was measured on the trainer's model."""
    result = check(rounded_reference, load_merged_export(merged_export))
    assert result.problems == ()
    assert 0 < result.max_logprob_difference <= result.limit
    assert result.max_logprob_difference == pytest.approx(result.rounding_difference, rel=0.01, abs=1e-4)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (wrong_template, "has other tokens, from token"),
        (missing_stop, "ends an answer in training"),
        (wrong_alpha, "log-probabilities differ"),
    ],
)
def test_check_finds_faults_of_an_adapter(
    float_reference: Reference,
    adapter_export: Path,
    tiny: TinyModel,
    tmp_path: Path,
    fault: Callable[[Path], None],
    problem: str,
) -> None:
    folder = shutil.copytree(adapter_export, tmp_path / "export")
    fault(folder)
    result = check(float_reference, load_adapter_export(folder, tiny.base_dir))
    assert not result.passed
    assert any(problem in one for one in result.problems), result.problems


@pytest.mark.parametrize("name", ["template", "stop", "4 bits", "8 bits", "no number", "no adapter"])
def test_check_finds_faults_of_merged_weights(
    rounded_reference: Reference, merged_export: Path, tiny: TinyModel, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(merged_export, tmp_path / "export")
    faults: dict[str, tuple[Callable[[], None], str]] = {
        "template": (lambda: wrong_template(folder), "has other tokens, from token"),
        "stop": (lambda: missing_stop(folder), "ends an answer in training"),
        "4 bits": (lambda: round_weights(folder, 4), "log-probabilities differ"),
        "8 bits": (lambda: round_weights(folder, 8), "log-probabilities differ"),
        "no number": (lambda: spoil_weights(folder), "log-probabilities differ by 1e+03"),
        "no adapter": (lambda: drop_adapter(folder, tiny.base_dir), "is answered differently"),
    }
    fault, problem = faults[name]
    fault()
    result = check(rounded_reference, load_merged_export(folder))
    assert not result.passed
    assert any(problem in one for one in result.problems), result.problems


def test_check_finds_a_merge_with_the_wrong_scale(
    rounded_reference: Reference, tiny: TinyModel, tmp_path: Path
) -> None:
    adapter = shutil.copytree(tiny.adapter, tmp_path / "adapter")
    wrong_alpha(adapter)
    folder = TinyModel(tiny.base_dir, adapter).export(tmp_path / "merged", format="merged").folder
    result = check(rounded_reference, load_merged_export(folder))
    assert any("log-probabilities differ" in problem for problem in result.problems), result.problems


def test_select_prompts_leaves_out_what_other_programs_read_differently(tiny: TinyModel) -> None:
    """Also prompts that are too long, and contents that are not text; ftpipe's own fill the rest."""
    good = Prompt([{"role": "user", "content": "a question"}])
    bad = [
        Prompt([{"role": "user", "content": "Hi<|im_end|>"}]),
        Prompt([{"role": "user", "content": "long " * 1000}]),
        Prompt([{"role": "user", "content": [{"type": "image_url"}]}]),
        Prompt([*good.messages, {"role": "assistant", "content": " yes"}, *good.messages]),
    ]
    selected = select_prompts([*bad, good, good], ChatTokenizer.load(tiny.base_dir))
    assert len(selected) == PROMPTS
    assert selected[0] == good
    assert not [prompt for prompt in selected[1:] if prompt in [good, *bad]]
