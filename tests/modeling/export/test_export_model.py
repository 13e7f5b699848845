"""A tuned model written for other programs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ftpipe.errors import ExportCheckError, LocalStateError, NotFoundError, UsageError
from ftpipe.modeling.base_models import HubReference
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.export import export_model as module
from ftpipe.modeling.export import weights
from ftpipe.modeling.loading import load_base, quiet_peft
from tests.modeling.export.conftest import FACTS, TinyModel
from tests.modeling.export.test_check import change_json

REVISION = "0123456789abcdef0123456789abcdef01234567"
ADAPTER_FILES = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def config(folder: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return value


@pytest.fixture
def hub_model(tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyModel:
    """The model on a base that was downloaded from a hub."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = cache / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION, encoding="utf-8")
    shutil.copytree(tiny.base_dir, repository / "snapshots" / REVISION)
    adapter = shutil.copytree(tiny.adapter, tmp_path / "adapter")
    change_json(adapter / "adapter_config.json", base_model_name_or_path="org/tiny", revision=REVISION)
    return TinyModel(repository / "snapshots" / REVISION, adapter)


def test_export_adapter_names_its_base_by_hub_id_and_revision(hub_model: TinyModel, tmp_path: Path) -> None:
    """AutoPeftModelForCausalLM loads the folder as it is, and answers like the trainer's model."""
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer, GenerationConfig

    result = hub_model.export(tmp_path / "out", base="org/tiny")
    assert names(result.folder) == ADAPTER_FILES
    assert result.base == HubReference("org/tiny", REVISION)
    assert config(result.folder, "adapter_config.json")["base_model_name_or_path"] == "org/tiny"
    assert config(result.folder, "adapter_config.json")["revision"] == REVISION
    with quiet_peft():
        loaded = AutoPeftModelForCausalLM.from_pretrained(result.folder, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    answer = hub_model.reference("float32").answers[0]
    inputs = tokenizer.apply_chat_template(
        list(answer.prompt.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = loaded.generate(
        **inputs,
        generation_config=GenerationConfig.from_pretrained(result.folder),
        max_new_tokens=len(answer.answer_ids),
        do_sample=False,
    )
    assert output[0].tolist() == [*answer.prompt_ids, *answer.answer_ids]


def test_export_refuses_a_base_of_another_revision(hub_model: TinyModel, tmp_path: Path) -> None:
    """The one that the adapter was trained on has to be on this machine."""
    other = "f" * 40
    change_json(hub_model.adapter / "adapter_config.json", revision=other)
    with pytest.raises(NotFoundError, match=other) as refused:
        hub_model.export(tmp_path / "out", base="org/tiny")
    assert refused.value.hint == f"hf download org/tiny --revision {other}"


def test_export_adapter_of_a_local_base_names_no_path(tiny: TinyModel, tmp_path: Path) -> None:
    """No file has a path of this machine, and a note says what the program needs."""
    result = tiny.export(tmp_path / "out")
    assert config(result.folder, "adapter_config.json")["base_model_name_or_path"] == "base"
    assert "'base', which is on no hub" in result.notes[0]
    for file in result.folder.iterdir():
        assert str(tiny.base_dir.parent).encode() not in file.read_bytes()


def test_export_adapter_has_what_vllm_requires(tiny: TinyModel, tmp_path: Path) -> None:
    """The rules of ``PEFTHelper.validate_legal`` in vLLM 0.26, read 2026-11-28, and a limit that vLLM knows."""
    facts = replace(FACTS, hyperparameters={"lora_r": 24})
    folder = tiny.export(tmp_path / "out", facts=facts).folder
    written = config(folder, "adapter_config.json")
    assert written["r"] == 16
    assert isinstance(written["lora_alpha"], int)
    assert isinstance(written["target_modules"], list)
    assert (written["bias"], written["init_lora_weights"]) == ("none", True)
    refused = ("modules_to_save", "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication")
    assert not [name for name in (*refused, "use_bdlora", "use_qalora", "rank_pattern") if written.get(name)]
    assert "--max-lora-rank 32 " in (folder / "README.md").read_text(encoding="utf-8")


def test_export_writes_a_model_card(hub_model: TinyModel, tmp_path: Path) -> None:
    card = (hub_model.export(tmp_path / "out", base="org/tiny").folder / "README.md").read_text(encoding="utf-8")
    for part in (
        "base_model: org/tiny\nbase_model_relation: adapter",
        f"vllm serve org/tiny --revision {REVISION} --enable-lora --max-lora-rank 16",
        "4 of 4 greedy answers agree",
        f"| SHA-256 of the data | `{'0' * 64}` |",
        "| rows | 12 |",
        "see https://huggingface.co/org/tiny",
    ):
        assert part in card


def test_export_merged_equals_base_with_adapter(tiny: TinyModel, tmp_path: Path) -> None:
    """AutoModelForCausalLM loads the folder as it is, in the precision of the base; each weight is rounded once."""
    import torch
    from transformers import AutoModelForCausalLM

    result = tiny.export(tmp_path / "merged", format="merged")
    merged = AutoModelForCausalLM.from_pretrained(result.folder)
    assert merged.dtype == torch.bfloat16
    exact = weights.merge(tiny.base_dir, tiny.adapter, keep_float32=True).state_dict()
    assert exact["model.layers.0.self_attn.q_proj.weight"].dtype == torch.float32
    for name, tensor in merged.state_dict().items():
        assert torch.equal(tensor, exact[name].to(torch.bfloat16)), name


def test_export_merged_splits_large_weights(tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftpipe.modeling.export.weights.MAX_SHARD_SIZE", "20KB")
    result = tiny.export(tmp_path / "merged", format="merged")
    assert result.check.passed
    assert "model.safetensors.index.json" in names(result.folder)
    assert len(list(result.folder.glob("model-*.safetensors"))) > 1


def test_export_merged_is_configured_for_old_transformers_too(tiny: TinyModel, tmp_path: Path) -> None:
    """Version 4 knows other names for precision, positions and the tokenizer's class."""
    folder = tiny.export(tmp_path / "merged", format="merged").folder
    written = config(folder, "config.json")
    assert (written["torch_dtype"], written["rope_theta"]) == ("bfloat16", written["rope_parameters"]["rope_theta"])
    assert config(folder, "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_export_merged_unties_embeddings_that_differ(tiny: TinyModel, tmp_path: Path) -> None:
    """An adapter of the output layer must not change the input layer, whose weights are the same in the base."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    from ftpipe.training.lora import save_adapter

    base_dir = shutil.copytree(tiny.base_dir, tmp_path / "tied")
    change_json(base_dir / "config.json", tie_word_embeddings=True)
    tensors = load_file(base_dir / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, base_dir / "model.safetensors", metadata={"format": "pt"})
    lora = LoraConfig(r=2, target_modules=["lm_head"], task_type=TaskType.CAUSAL_LM, init_lora_weights=False)
    torch.manual_seed(0)
    with quiet_peft():
        model = get_peft_model(load_base(base_dir, DeviceConfig("cpu", "float32")), lora)
    (tmp_path / "adapter").mkdir()
    save_adapter(model, tmp_path / "adapter", base_model="tiny")
    result = TinyModel(base_dir, tmp_path / "adapter").export(tmp_path / "merged", format="merged")
    assert result.check.problems == ()
    assert config(result.folder, "config.json")["tie_word_embeddings"] is False


def test_export_merged_refuses_a_quantized_base(tiny: TinyModel, tmp_path: Path) -> None:
    base_dir = shutil.copytree(tiny.base_dir, tmp_path / "quantized")
    change_json(base_dir / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(UsageError, match="bitsandbytes") as refused:
        weights.merge(base_dir, tiny.adapter)
    assert "without --merged" in refused.value.hint


def test_export_that_fails_its_check_says_so_in_its_name(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never under the name that was asked for; the card says it, too. A second one gets a name of its own."""

    def write_base_only(base_dir: Path, _adapter: Path, folder: Path) -> None:
        weights.write_merged(base_dir, tiny.adapter, folder)
        shutil.copyfile(base_dir / "model.safetensors", folder / "model.safetensors")

    monkeypatch.setattr(module, "write_merged", write_base_only)
    results = [tiny.export(tmp_path / "out", format="merged") for _ in range(2)]
    assert names(tmp_path) == ["out-failed-check", "out-failed-check-2"]
    assert [result.folder.name for result in results] == names(tmp_path)
    assert not results[0].check.passed
    assert "FAILED, do not use it" in (results[0].folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_export_that_is_interrupted_leaves_nothing(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(module, "write_generation_config", fail)
    with pytest.raises((KeyboardInterrupt, LocalStateError)):
        tiny.export(tmp_path / "out")
    assert names(tmp_path) == []


def test_export_that_cannot_be_loaded_is_not_kept(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_broken(base_dir: Path, folder: Path, stop_ids: frozenset[int]) -> None:
        weights.write_generation_config(base_dir, folder, stop_ids)
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")

    monkeypatch.setattr(module, "write_generation_config", write_broken)
    with pytest.raises(ExportCheckError, match="cannot be loaded"):
        tiny.export(tmp_path / "out")
    assert names(tmp_path) == []


def test_export_checks_the_free_space_first(tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_path: Path) -> Any:
        return SimpleNamespace(free=0)

    monkeypatch.setattr("shutil.disk_usage", no_space)
    with pytest.raises(LocalStateError, match="0 B are free"):
        tiny.export(tmp_path / "out")


def test_export_does_not_overwrite(tiny: TinyModel, tmp_path: Path) -> None:
    """The folder must be new or empty."""
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        tiny.export(tmp_path)


def test_export_refuses_incomplete_adapter(tiny: TinyModel, tmp_path: Path) -> None:
    """The message names what is missing."""
    with pytest.raises(NotFoundError, match=r"adapter_model\.safetensors"):
        tiny.export(tmp_path / "out", adapter=tmp_path)


def test_export_leaves_folders_beside_the_output_alone(tiny: TinyModel, tmp_path: Path) -> None:
    """Not even one with the name that scratch folders once had; the exported folder is as readable as any other."""
    other = tmp_path / ".new-out"
    other.mkdir()
    (other / "thesis.tex").write_text("mine", encoding="utf-8")
    output = tiny.export(tmp_path / "out").folder
    assert (other / "thesis.tex").read_text(encoding="utf-8") == "mine"
    assert names(tmp_path) == [".new-out", "out"]
    assert output.stat().st_mode & 0o777 == other.stat().st_mode & 0o777


def test_export_in_parallel_does_not_disturb_each_other(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another export to the same folder ends first: the slower one is refused, and nothing is left half-written."""

    def export_meanwhile(*arguments: Any) -> None:
        weights.write_generation_config(*arguments)
        monkeypatch.setattr(module, "write_generation_config", weights.write_generation_config)
        tiny.export(tmp_path / "out")

    monkeypatch.setattr(module, "write_generation_config", export_meanwhile)
    with pytest.raises(UsageError, match="exists already"):
        tiny.export(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ADAPTER_FILES


def test_export_refuses_a_link_as_output(tiny: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "target")
    with pytest.raises(UsageError, match="exists already"):
        tiny.export(tmp_path / "out")
    assert list((tmp_path / "target").iterdir()) == []
