"""Write the model card of an export: what the model is, how it was made, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftpipe.formatting import format_decimal
from ftpipe.modeling.base_models import HubReference
from ftpipe.modeling.export.check import CheckResult
from ftpipe.modeling.export.gguf_writer import GGUF_FILE

VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Values of ``--max-lora-rank`` from its default on; a smaller rank than the limit is served, too.

Source: vLLM 0.26, ``vllm/config/lora.py``, read 2026-11-28."""
LOAD_ADAPTER = """\
`FOLDER` is this folder, or its name on the hub.

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, GenerationConfig

model = AutoPeftModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
messages = [{"role": "user", "content": "Hello"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
config = GenerationConfig.from_pretrained(FOLDER)
output = model.generate(**inputs, generation_config=config, max_new_tokens=200)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

```sh
vllm serve BASE --enable-lora --max-lora-rank RANK --lora-modules NAME=FOLDER \\
  --tokenizer FOLDER --generation-config FOLDER
```
"""
LOAD_MERGED = """\
`FOLDER` is this folder, or its name on the hub.

```python
from transformers import pipeline

generate = pipeline("text-generation", FOLDER)
print(generate([{"role": "user", "content": "Hello"}], max_new_tokens=200)[0]["generated_text"][-1]["content"])
```

```sh
vllm serve FOLDER --served-model-name NAME
```
"""
LOAD_GGUF = """\
```sh
ollama create NAME -f Modelfile && ollama run NAME
llama-server --jinja --model FILE
```
"""


@dataclass(frozen=True)
class ModelFacts:
    """What a model card says of a model; nothing in it names this machine.

    Attributes:
        name: The model's name.
        method: ``supervised`` or ``dpo``.
        dataset_sha256: Digest of the training file.
        rows: Rows of the training file; ``None`` if it is not known.
        hyperparameters: Those of the training.
        metrics: Its last losses and accuracies.
        license: Licence of the base model, as the hub spells it; empty if it is not known.
    """

    name: str
    method: str
    dataset_sha256: str
    rows: int | None = None
    hyperparameters: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    license: str = ""


def write_model_card(
    folder: Path,
    facts: ModelFacts,
    export_format: str,
    hub: HubReference | None,
    check: CheckResult,
    notes: Sequence[str],
) -> None:
    """Write ``README.md``, in the form that the Hugging Face hub shows."""
    base = hub.name if hub else "a local model"
    lines = [
        *_front_matter(facts, export_format, hub),
        f"# {facts.name}",
        "",
        f"{base}{f' at revision `{hub.revision}`' if hub else ''}, fine-tuned with LoRA ({facts.method}) by ftpipe.",
        "",
        f"**Check:** {check_sentence(check)}",
        "",
        *(f"**Note:** {note}." for note in notes),
        *([""] if notes else []),
        "## Load it",
        "",
        _load_commands(facts, export_format, hub),
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _training_rows(facts)),
        "",
        "## License",
        "",
        _license_sentence(facts, hub),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def check_sentence(check: CheckResult) -> str:
    """What the check found, in a sentence or two."""
    if check.problems:
        return f"FAILED, do not use it: {'; '.join(check.problems)}."
    text = (
        f"{check.identical_answers} of {check.prompts} greedy answers agree with the trainer's model token for token "
        f"in {check.program}; log-probabilities differ by at most {check.max_logprob_difference:.2g} "
        f"(limit {check.limit:.2g})."
    )
    if check.first_divergence is not None:
        divergence = check.first_divergence
        text += (
            f" Answer {divergence.prompt} differs first at token {divergence.token}, {divergence.actual} instead of "
            f"{divergence.expected}: the two are {divergence.logprob_gap:.2g} apart."
        )
    return text


def _front_matter(facts: ModelFacts, export_format: str, hub: HubReference | None) -> list[str]:
    libraries = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
    lines = ["---", f"library_name: {libraries[export_format]}"]
    lines += ["pipeline_tag: text-generation"]
    if facts.license:
        lines.append(f"license: {facts.license}")
    if hub is not None:
        relation = "adapter" if export_format == "adapter" else "finetune"
        lines += [f"base_model: {hub.name}", f"base_model_relation: {relation}"]
    return [*lines, "tags:", "- lora", f"- {'dpo' if facts.method == 'dpo' else 'sft'}", "---", ""]


def _load_commands(facts: ModelFacts, export_format: str, hub: HubReference | None) -> str:
    if export_format == "merged":
        return LOAD_MERGED
    if export_format == "gguf":
        return LOAD_GGUF.replace("FILE", GGUF_FILE)
    base = f"{hub.name} --revision {hub.revision}" if hub else "FOLDER_OF_THE_BASE_MODEL"
    rank = facts.hyperparameters.get("lora_r")
    needed = rank if isinstance(rank, int) else VLLM_RANKS[0]
    limit = next((one for one in VLLM_RANKS if one >= needed), VLLM_RANKS[-1])
    return LOAD_ADAPTER.replace("BASE", base).replace("RANK", str(limit))


def _training_rows(facts: ModelFacts) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [("SHA-256 of the data", f"`{facts.dataset_sha256}`")]
    if facts.rows is not None:
        rows.append(("rows", facts.rows))
    rows += facts.hyperparameters.items()
    return [*rows, *((name, format_decimal(value)) for name, value in facts.metrics.items())]


def _license_sentence(facts: ModelFacts, hub: HubReference | None) -> str:
    if facts.license:
        return f"The base model is under {facts.license}, which applies to this model, too."
    if hub is not None:
        return f"The license of the base model applies: see https://huggingface.co/{hub.name}."
    return "The license of the base model applies."
